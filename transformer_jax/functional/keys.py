"""Random keys that give the same numbers whatever the default generator is."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from transformer_jax.functional.arguments import check_integer

__all__ = ["fold_in_rows", "row_keys", "seed_key", "typed_key"]

# Its bits for one key do not depend on the keys beside it under `jax.vmap`; those of "rbg" do.
GENERATOR = "threefry2x32"

AnyKey = Key[Array, "..."] | UInt32[Array, "..."]


def seed_key(seed: int) -> Key[Array, ""]:
    """Make the Threefry key of a seed in [0, 2^63); each seed has its own.

    For seeds below 2^32 it is `jax.random.key(seed)` of JAX's default generator, which drops the
    higher bits of larger seeds unless 64-bit types are enabled.

    Raises:
        ValueError: The seed is out of range.

    >>> jax.random.key_data(seed_key(7)).tolist(), jax.random.key_data(seed_key(7 + 2**32)).tolist()
    ([0, 7], [1, 7])
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is outside [0, 2^63)")
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl=GENERATOR)


def typed_key(rng: AnyKey) -> Key[Array, "..."]:
    """Convert an old key (`jax.random.PRNGKey`, uint32 words) to a key dtype; others stay the same.

    Raises:
        TypeError: `rng` is not a key.

    >>> typed_key(jax.random.PRNGKey(7)) == jax.random.key(7)
    Array(True, dtype=bool)
    """
    if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        return rng
    if rng.dtype != jnp.uint32 or not rng.ndim:
        raise TypeError(f"{rng.dtype}{rng.shape} is not a random key: use jax.random.key(seed)")
    return jax.random.wrap_key_data(rng)


def row_keys(rng: AnyKey) -> Key[Array, "..."]:
    """Convert keys to Threefry keys, whose bits do not depend on the keys beside them in a batch.

    A key of another generator becomes the Threefry key of its first two words.

    >>> row_keys(jax.random.split(jax.random.key(0, impl="rbg"), 3)).dtype
    key<fry>
    """
    rng = typed_key(rng)
    if str(jax.random.key_impl(rng)) == GENERATOR:
        return rng
    return jax.random.wrap_key_data(jax.random.key_data(rng)[..., :2], impl=GENERATOR)


def fold_in_rows(rng: AnyKey, rows: Int[Array, "B"] | UInt32[Array, "B"]) -> Key[Array, "B"]:
    """Make a key for each row, a function of `rng` and the row's number alone.

    Args:
        rng: One key.
        rows: Number of each row, integers [B].

    Returns:
        Threefry keys [B].

    Raises:
        TypeError: The rows are not integers.

    >>> keys = fold_in_rows(jax.random.key(0), jnp.array([3, 5]))
    >>> keys[1] == jax.random.fold_in(jax.random.key(0), 5)
    Array(True, dtype=bool)
    """
    check_integer("rows", rows)
    return jax.vmap(jax.random.fold_in, (None, 0))(row_keys(rng), rows)
