"""Attention in blocks of a window equals attention behind the mask of the window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.functional import unchecked
from transformer_jax import functional as F
from transformer_jax.functional.kernels import compact_attention

RNG = np.random.default_rng(0)


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def masks(length):
    """No mask, and those of each shape that broadcasts; some rows have no key."""
    return {
        "none": None,
        "keys": jnp.asarray(RNG.random((2, 1, 1, length)) < 0.6),
        "heads": jnp.asarray(RNG.random((1, 3, length, length)) < 0.3),
        "queries": jnp.asarray(RNG.random((2, 1, length, 1)) < 0.6),
    }


@pytest.mark.parametrize("length, radius", [(3, 2), (7, 1), (12, 2), (13, 3), (17, 4), (8, 8)])
@pytest.mark.parametrize("causal", [False, True])
def test_local_attention_equals_the_masked_definition(length, radius, causal):
    query, key, value = floats(2, length, 3, 4), floats(2, length, 3, 4), floats(2, length, 3, 5)
    window = F.local_window_mask(length, radius, causal)
    for mask in masks(length).values():
        found = F.local_attention(query, key, value, mask, radius=radius, causal=causal, scale=0.7)
        seen = F.combine_masks(mask, window)
        expected = F.dot_product_attention(query, key, value, seen, scale=0.7)
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("attend", [F.dot_product_attention, compact_attention])
def test_gradients_of_local_attention_are_those_of_the_masked_definition(attend):
    arrays, weights = [floats(2, 11, 3, 4) for _ in range(3)], floats(2, 11, 3, 4)
    padding = jnp.arange(11)[None, None, None] < jnp.array([11, 6])[:, None, None, None]

    def local(arrays):
        found = F.local_attention(*arrays, padding, radius=2, causal=True, attend=attend)
        return jnp.sum(found * weights)

    def masked(arrays):
        mask = F.combine_masks(padding, F.local_window_mask(11, 2, True))
        return jnp.sum(F.dot_product_attention(*arrays, mask) * weights)

    for found, expected in zip(jax.grad(local)(arrays), jax.grad(masked)(arrays)):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_local_attention_forms_no_square_of_the_length():
    """Weights are T x 3 r: from 64 to 256 tokens the memory grows with T, not with its square."""

    def largest(length):
        x = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda *x: F.local_attention(*x, radius=4))(x, x, x)
        return max(v.aval.size for e in jaxpr.jaxpr.eqns for v in e.outvars)

    assert largest(256) == pytest.approx(4 * largest(64), rel=0.2)


def test_local_attention_refuses_what_has_no_neighbours():
    x = floats(2, 5, 3, 4)
    with pytest.raises(ValueError, match="radius 0 is less than 1"):
        F.local_attention(x, x, x, radius=0)
    with pytest.raises(ValueError, match=r"the key has shape \(2, 4, 3, 4\)"):
        unchecked(F.local_attention)(x, x[:, :4], x[:, :4], radius=1)
