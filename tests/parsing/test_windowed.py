"""Attention around the word that comes next: what it sees, step by step as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parsing.test_constrained import model_of, vocabularies_of
from transformer_jax.data.vocabulary import SentencePieceVocabulary, Vocabularies
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.parsing import ORDERS, delinearize
from transformer_jax.parsing.constrained import constrain_model
from transformer_jax.parsing.windowed import window_model


def windowed_of(both, radius, order="tensor2tensor", **fields):
    model, variables = model_of(both, cross_attention_radius=radius, **fields)
    return model, window_model(model, both, order), variables


def test_attention_sees_the_pieces_of_words_near_the_next():
    pieces = SentencePieceVocabulary.train(["the dogs bark at the cats"], 276, "bpe")
    both = Vocabularies(pieces, vocabularies_of("tensor2tensor").target)
    _, model, variables = windowed_of(both, radius=1)
    sentence, symbols = "the dogs bark", ["S", "NP", "NN", "NN", "/NP", "VB", "/S"]
    ids = pieces.encode(sentence)
    spelled = pieces.tokens(ids)
    assert len(spelled) > 4  # words of several pieces
    # The word of each token by its spelling; the end of the sentence comes after all.
    word_of = [sum(s.startswith("\u2581") for s in spelled[: i + 1]) - 1 for i in range(len(ids))]
    word_of.append(3)
    source = jnp.array([[*ids, 1, 0]])
    target = jnp.array([[both.target.tokens(range(len(both.target))).index(s) for s in symbols]])
    _, kept = model.apply(variables, source, target, mutable=["attention"])
    weights = np.asarray(kept["attention"]["decoder_0"]["cross_attention"]["weights"][0])
    words_before = [0, 0, 0, 1, 2, 2, 3]  # each symbol
    for t, written in enumerate(words_before):
        seen = [abs(word - written) <= 1 for word in word_of] + [False]
        assert ((weights[:, t] > 0) == seen).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("radius", [0, 1])
def test_searches_score_as_the_whole_target_does(order, radius):
    both = vocabularies_of(order)
    _, model, variables = windowed_of(both, radius, order)
    decoder = BatchDecoder(
        model, variables, searched=lambda _: constrain_model(model, both, order, 9)
    )
    rng = np.random.default_rng(0)
    # Two or so at once, of several widths: those that end make room for others, and caches grow.
    sources = [rng.integers(4, 9, size=n).tolist() for n in (1, 2, 3, 5, 40, 8, 13, 1, 4)]
    of_few = {"extra_length": 9, "batch_tokens": 64}
    for search in (Search(method="greedy", **of_few), Search(n_best=4, **of_few)):
        for source, hypotheses in zip(sources, decoder.translate(sources, search)):
            ids = [hypothesis.ids for hypothesis in hypotheses]
            for each in ids:
                delinearize(both.target.tokens(each), ["w"] * len(source), order)
            scored = decoder.score([source] * len(ids), ids)
            expected = [hypothesis.log_prob for hypothesis in hypotheses]
            np.testing.assert_allclose([s.sum() for s in scored], expected, rtol=1e-4)


def test_a_window_over_all_words_changes_nothing():
    both = vocabularies_of("tensor2tensor")
    plain, wide, variables = windowed_of(both, radius=9)
    _, near, _ = windowed_of(both, radius=1)
    source, target = jnp.array([[4, 5, 6, 7, 1]]), jnp.array([[4, 6, 6, 6, 7, 8, 1]])
    expected = plain.apply(variables, source, target)
    np.testing.assert_array_equal(wide.apply(variables, source, target), expected)
    assert jnp.abs(near.apply(variables, source, target) - expected).max() > 1e-3
    states = near.apply(variables, source, method="encode")
    np.testing.assert_array_equal(states, plain.apply(variables, source, method="encode"))
    # What the one is trained to, the other takes.
    drawn = jax.jit(near.init)(jax.random.key(0), source, target)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, variables)
