"""Dropout, embedding and feed-forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import functional as F

rng = np.random.default_rng(0)


@pytest.mark.gpu
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_dropout_rate_and_scale(rate):
    x = jnp.ones((301, 333))
    out = np.asarray(F.dropout(x, rate, jax.random.key(1)))
    dropped = (out == 0).mean()
    # Five standard deviations of a binomial share.
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=3e-5)


def test_dropout_bits_are_independent():
    """Two decisions share one random word; neighbours must not agree more often than chance."""
    kept = np.asarray(F.dropout(jnp.ones(200_000), 0.5, jax.random.key(0))) > 0
    for shift in (1, 2):
        agree = (kept[:-shift] == kept[shift:]).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(kept.size)


def test_dropout_is_off_without_a_key():
    x = jnp.asarray(rng.normal(size=(3, 5)), jnp.bfloat16)
    assert F.dropout(x, 0.5, None) is x
    assert F.dropout(x, 0.0, jax.random.key(0)) is x
    assert F.dropout(x, 0.5, jax.random.key(0)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"dropout rate 1.0 is outside \[0, 1\)"):
        F.dropout(x, 1.0, jax.random.key(0))


def test_embedding_scales_by_sqrt_d_model_and_zeroes_padding():
    table = jnp.asarray(rng.normal(size=(7, 16)), jnp.float32)
    tokens = jnp.array([[3, 0, 6]])
    found = F.embed(tokens, table)
    np.testing.assert_allclose(found[0, 0], 4 * table[3], rtol=1e-6)
    assert not found[0, 1].any()
    gradient = jax.grad(lambda t: F.embed(tokens, t).sum())(table)
    assert not gradient[0].any()
    assert gradient[6].any()


@pytest.mark.parametrize("token", [7, -1, -7])
def test_embedding_of_no_row_is_nan(token):
    """JAX would clip 7 and count -1 from the end."""
    found = F.embed(jnp.array([[3, token]]), jnp.ones((7, 16)))
    assert jnp.isfinite(found[0, 0]).all()
    assert jnp.isnan(found[0, 1]).all()
    assert not F.embed(jnp.array([[-100]]), jnp.ones((7, 16)), pad_id=-100).any()


def test_bias_is_added_and_its_gradient_summed_in_float32():
    ones = jnp.ones((25_000, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1), jnp.bfloat16)

    def total(bias):
        return F.linear(ones, kernel, bias).astype(jnp.float32).sum()

    # In bfloat16 25,000 ones sum to 256, or to 8,192 pairwise.
    assert jax.grad(total)(jnp.zeros(1))[0] == 25_000
    small = F.linear(ones[:1], kernel, jnp.full(1, 2**-8))
    assert small.dtype == jnp.bfloat16


def test_tied_output_is_the_transposed_table():
    table = jnp.asarray(rng.normal(size=(7, 16)), jnp.bfloat16)
    x = jnp.asarray(rng.normal(size=(2, 3, 16)), jnp.bfloat16)
    logits = F.unembed(x, table)
    assert logits.dtype == jnp.float32
    expected = np.asarray(x, np.float32) @ np.asarray(table, np.float32).T
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_feed_forward_matches_equation_2():
    shapes = ((2, 3, 5), (5, 7), (7,), (7, 5), (5,))
    arrays = [rng.normal(size=shape) for shape in shapes]
    x, w1, b1, w2, b2 = (jnp.asarray(array, jnp.float32) for array in arrays)
    expected = np.maximum(0, arrays[0] @ arrays[1] + arrays[2]) @ arrays[3] + arrays[4]
    np.testing.assert_allclose(F.feed_forward(x, w1, b1, w2, b2), expected, rtol=1e-5, atol=1e-5)
    dropped = F.feed_forward(x, w1, b1, w2, b2, dropout_rate=0.5, rng=jax.random.key(0))
    assert not np.allclose(dropped, expected)
