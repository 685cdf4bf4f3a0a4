"""What a translator gives of its model beside translations."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Transformer, Translator, presets
from transformer_jax.data.vocabulary import EOS_ID, WhitespaceVocabulary
from transformer_jax.errors import UserError


@pytest.fixture(scope="module")
def translator():
    vocabulary = WhitespaceVocabulary(["a", "b", "c", "d"])
    model = Transformer(presets.tiny(len(vocabulary)))
    tokens = jnp.ones((1, 1), jnp.int32)
    params = model.init(jax.random.key(0), tokens, tokens)["params"]
    return Translator(model, params, vocabulary)


def test_attention_of_a_pair(translator):
    seen = translator.attention("a b c", "d d")
    assert seen.source == ["a", "b", "c", "</s>"]
    assert seen.decoder_input_tokens == ["<s>", "d", "d"]
    assert seen.target_tokens == ["d", "d", "</s>"]
    layers, heads = 2, 4
    assert seen.encoder.shape == (layers, heads, 4, 4)
    assert seen.decoder.shape == (layers, heads, 3, 3)
    assert seen.cross.shape == (layers, heads, 3, 4)
    for weights in (seen.encoder, seen.decoder, seen.cross):
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.triu(seen.decoder, 1).any()  # nothing of what is written later
    # The same numbers as the model gives when it is asked itself.
    encode = translator.vocabulary.encode
    rows = [jnp.array([[*encode(line), EOS_ID]]) for line in ("a b c", "d d")]
    variables = {"params": translator.params}
    apply = jax.jit(functools.partial(translator.model.apply, mutable=["attention"]))
    _, state = apply(variables, *rows)
    attention = state["attention"]
    for layer in range(layers):
        for weights, where in (
            (seen.encoder, attention[f"encoder_{layer}"]["self_attention"]),
            (seen.decoder, attention[f"decoder_{layer}"]["self_attention"]),
            (seen.cross, attention[f"decoder_{layer}"]["cross_attention"]),
        ):
            np.testing.assert_allclose(weights[layer], where["weights"][0], atol=1e-6)


def test_attention_of_a_translation(translator):
    [translation] = translator.translate(["a b"])
    own, given = translator.attention("a b"), translator.attention("a b", translation)
    assert own.target_tokens == given.target_tokens
    np.testing.assert_array_equal(own.cross, given.cross)


def test_attention_with_learned_positions(caplog):
    vocabulary = WhitespaceVocabulary(["a", "b"])
    model = Transformer(
        replace(presets.tiny(len(vocabulary)), position_encoding="learned", max_positions=5)
    )
    tokens = jnp.ones((1, 1), jnp.int32)
    params = model.init(jax.random.key(0), tokens, tokens)["params"]
    translator = Translator(model, params, vocabulary)
    assert translator.attention("a b a b", "b").encoder.shape == (2, 4, 5, 5)
    with pytest.raises(UserError, match="6 tokens with EOS, more than the 5 that can"):
        translator.attention("a b a b a", "b")
    assert np.isnan(translator.score(["a"], ["a b a b a"], first=8)).all()
    assert "line 9 has 6 tokens with EOS, more than the 5 that can be read at once" in caplog.text


@pytest.mark.parametrize("lines", [["a", b"b"], ["a", None], ["a", 3.0]])
def test_lines_are_strings(translator, lines):
    kind = type(lines[1]).__name__
    with pytest.raises(TypeError, match=f"lines must be str, but number 2 is {kind}"):
        translator.translate(lines)
    with pytest.raises(TypeError, match=f"targets must be str, but number 2 is {kind}"):
        translator.score(["a", "b"], lines)
    with pytest.raises(TypeError, match="sources is one string: give a list of lines"):
        translator.score("a b", ["a b"])


def test_pairs_are_any_iterable(translator):
    wanted = translator.score(["a b", "c"], ["d", "a"])
    assert translator.score(iter(["a b", "c"]), (line for line in ["d", "a"])) == wanted
    found = translator.evaluate(iter(["a b", "c"]), iter(["d", "a"]), method="greedy")
    assert len(found.translations) == 2
    with pytest.raises(UserError, match="there are no sources to translate and score"):
        translator.evaluate([], [])


def test_blank_lines_score_as_empty_ones(translator):
    blank = ["", " ", "\u00a0", "\u200b", "\u3000"]
    assert len(set(translator.score(blank, ["a"] * 5))) == 1
    assert len(set(translator.score(["a"] * 5, blank))) == 1


def test_blank_lines_are_counted_as_they_are_evaluated(translator):
    counts: list[int] = []
    translator.evaluate(["a", "", " ", "b c"], list("abcd"), on_progress=counts.append)
    assert sum(counts) == 4
