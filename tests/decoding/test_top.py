"""The blocks find what jax.lax.top_k finds, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.top import top_values


@pytest.mark.parametrize(("size", "count"), [(7, 3), (5000, 1), (5000, 4), (4097, 8), (40_000, 16)])
@pytest.mark.parametrize("kinds", [3, 1_000_000])
def test_top_values_are_those_of_top_k(size, count, kinds):
    """Of three values most are equal, of a million few."""
    drawn = np.random.default_rng(size).integers(0, kinds, (6, size)).astype(np.float32)
    drawn[1, : size // 2] = -np.inf
    drawn[2] = -np.inf
    for found, expected in zip(
        top_values(jnp.asarray(drawn), count), jax.lax.top_k(jnp.asarray(drawn), count)
    ):
        np.testing.assert_array_equal(found, expected)


def test_of_equal_values_the_first_is_found():
    """Also where its block has a smaller largest value than another with the same value."""
    values = jnp.zeros((1, 5000)).at[0, jnp.array([10, 3000, 3001])].set(jnp.array([1.0, 2.0, 1.0]))
    assert top_values(values, 2)[1].tolist() == [[3000, 10]]
