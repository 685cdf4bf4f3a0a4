"""Keys: a seed each, old ones accepted, and rows that no other row and no generator changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.functional import unchecked
from transformer_jax import functional as F


def test_seed_keys_below_2_to_the_32_keep_their_values():
    for seed in (0, 1, 2**31, 2**32 - 1):
        expected = jax.random.bits(jax.random.key(np.uint32(seed), impl="threefry2x32"), (4,))
        np.testing.assert_array_equal(jax.random.bits(F.seed_key(seed), (4,)), expected)


def test_seed_keys_differ():
    drawn = {int(jax.random.bits(F.seed_key(s))) for s in (5, 5 + 2**32, 5 + 2**62, 2**63 - 1)}
    assert len(drawn) == 4
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed {seed} is outside"):
            F.seed_key(seed)


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_seed_keys_ignore_the_default_generator(generator):
    x = jnp.ones((4, 301))
    expected = F.dropout(x, 0.5, F.fold_in_rows(F.seed_key(7), jnp.arange(4)))
    with jax.default_prng_impl(generator):
        found = F.dropout(x, 0.5, F.fold_in_rows(F.seed_key(7), jnp.arange(4)))
        np.testing.assert_array_equal(found, expected)
        # A key of that generator: a row draws the same in any company.
        rows = F.fold_in_rows(jax.random.key(7), jnp.array([3, 1]))
        alone = F.fold_in_rows(jax.random.key(7), jnp.array([1]))
        together = F.dropout(x[:2], 0.5, rows)
        np.testing.assert_array_equal(together[1:], F.dropout(x[:1], 0.5, alone))
        assert (together[0] != together[1]).any()


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_row_keys_make_dropout_independent_of_batch(generator):
    keys = jax.random.split(jax.random.key(0, impl=generator), 4)
    whole = F.dropout(jnp.ones((4, 301)), 0.5, keys)
    np.testing.assert_array_equal(whole[2:], F.dropout(jnp.ones((2, 301)), 0.5, keys[2:]))
    assert (whole[0] != whole[1]).any()


def test_typed_key_accepts_raw_keys():
    x, old, new = jnp.ones((3, 301)), jax.random.PRNGKey(7), jax.random.key(7)
    np.testing.assert_array_equal(F.dropout(x, 0.5, old), F.dropout(x, 0.5, new))
    rows = jnp.arange(3)
    by_row = jax.vmap(jax.random.fold_in, (None, 0))
    np.testing.assert_array_equal(
        F.dropout(x, 0.5, by_row(old, rows)), F.dropout(x, 0.5, F.fold_in_rows(old, rows))
    )
    with pytest.raises(TypeError, match=r"int32\(2,\) is not a random key"):
        unchecked(F.typed_key)(jnp.zeros(2, jnp.int32))
