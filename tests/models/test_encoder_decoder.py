"""Encoder and decoder alone, masks of one's own, and several sentences packed in one row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import (
    SMALL,
    SOURCE,
    TARGET,
    VARIANTS,
    V,
    build,
    decoded,
    forward,
)
from transformer_jax import Search, generate
from transformer_jax import functional as F
from transformer_jax.models.transformer import Decoder, Encoder, Masks, Segments


@pytest.mark.parametrize("name", ["paper", "pre-norm", "learned", "untied"])
def test_encoder_uses_parameters_of_a_transformer(name):
    config = replace(SMALL, **VARIANTS[name])
    model, variables = build(config)
    encoder = Encoder(config)
    own = jax.eval_shape(encoder.init, jax.random.key(0), SOURCE)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(own):
        found = variables["params"]
        for key in path:
            found = found[key.key]
        assert found.shape == leaf.shape
    assert not any("decoder" in key or "target" in key or "output" in key for key in own)
    found = forward(encoder)(variables, SOURCE)
    np.testing.assert_array_equal(found, forward(model)(variables, SOURCE, method="encode"))


@pytest.mark.parametrize("name", ["paper", "bos"])
def test_decoder_is_a_language_model(name):
    """It sees nothing but what came before, and decodes step by step as it reads at once."""
    decoder = Decoder(replace(SMALL, **VARIANTS[name]), cross=False)
    variables = jax.jit(decoder.init)(jax.random.key(1), TARGET)
    assert not any("cross" in str(p) for p, _ in jax.tree_util.tree_leaves_with_path(variables))
    target = TARGET[:1]
    logits = forward(decoder)(variables, target)
    changed = forward(decoder)(variables, target.at[0, 3].set(4))
    np.testing.assert_array_equal(logits[:, :4], changed[:, :4])
    assert (logits[:, 4] != changed[:, 4]).any()
    nothing = jnp.zeros((1, 0), jnp.int32)
    cache = decoder.apply(variables, nothing, 1, 5, method="init_cache")
    step = jax.jit(lambda c, t: decoded(decoder, variables, c, t))
    token = jnp.array([decoder.config.start_id])
    for position in range(5):
        cache, found = step(cache, token)
        np.testing.assert_allclose(found, logits[:, position], rtol=1e-4, atol=1e-5)
        token = target[:, position]
    search = Search(method="sample", n_best=2, extra_length=6)
    start = decoder.config.start_id
    assert generate(decoder, variables["params"], nothing, search, start_id=start).tokens.shape == (
        1,
        2,
        6,
    )


def test_masks_combine_with_those_of_the_model():
    model, variables = build(SMALL)
    apply = forward(model)
    window = Masks(F.local_window_mask(SOURCE.shape[1], 1), F.local_window_mask(TARGET.shape[1], 2))
    _, state = apply(variables, SOURCE, TARGET, None, window, mutable=("attention",))
    weights = {
        stack: np.asarray(state["attention"][f"{stack}_0"]["self_attention"]["weights"])
        for stack in ("encoder", "decoder")
    }
    near = np.abs(np.subtract.outer(np.arange(7), np.arange(7))) <= 1
    wanted = near[None, None] & np.asarray(SOURCE != 0)[:, None, None]
    np.testing.assert_array_equal(weights["encoder"] > 0, np.broadcast_to(wanted, (3, 3, 7, 7)))
    back = np.subtract.outer(np.arange(5), np.arange(5))
    wanted = np.broadcast_to((back >= 0) & (back <= 2), (3, 3, 5, 5))
    np.testing.assert_array_equal(weights["decoder"] > 0, wanted)
    # Source words that nothing may attend to change nothing.
    blind = Masks(cross=jnp.zeros((1, 1, 1, 7), bool))
    other = SOURCE.at[0, 2].set(4)
    np.testing.assert_array_equal(
        apply(variables, SOURCE, TARGET, None, blind), apply(variables, other, TARGET, None, blind)
    )
    assert (apply(variables, SOURCE, TARGET) != apply(variables, other, TARGET)).any()


@pytest.mark.parametrize("name", ["paper", "learned", "bos", "pre-norm"])
def test_packed_sentences_equal_separate_rows(name):
    model, variables = build(replace(SMALL, **VARIANTS[name]))
    apply = forward(model)
    sources, targets = [[4, 5, 6, 1], [9, 1]], [[6, 1], [5, 7, 8, 1]]
    apart = [
        apply(variables, jnp.array([source]), jnp.array([target]))[0]
        for source, target in zip(sources, targets)
    ]
    source, target = (jnp.array([[*a, *b, 0]]) for a, b in (sources, targets))
    segments = Segments(jnp.array([[1] * 4 + [2] * 2 + [0]]), jnp.array([[1] * 2 + [2] * 4 + [0]]))
    packed = apply(variables, source, target, None, None, segments)[0]
    np.testing.assert_allclose(packed[:2], apart[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(packed[2:6], apart[1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(apply(variables, source, target)[0, 2:6], apart[1], atol=1e-2)


def test_embedding_tables_per_side():
    config = replace(SMALL, tied_embeddings="none", target_vocab_size=V + 5)
    model, variables = build(config)
    sizes = {n: leaf.shape[0] for n, leaf in variables["params"].items() if n.endswith("embedding")}
    assert sizes == {
        "source_embedding": V, "target_embedding": V + 5, "output_embedding": V + 5
    }  # fmt: skip
    assert forward(model)(variables, SOURCE, TARGET).shape == (3, 5, V + 5)
