"""Keys of random numbers that mean the same whatever generator a user has set as the default."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

__all__ = ["fold_in_rows", "seed_key", "typed_key"]

# Its bits for one key do not depend on the keys beside it under `jax.vmap`; those of "rbg" do.
GENERATOR = "threefry2x32"

AnyKey = Key[Array, "..."] | UInt32[Array, "..."]


def seed_key(seed: int) -> Key[Array, ""]:
    """The Threefry key of a seed in [0, 2^63); each seed has its own.

    For seeds below 2^32 it is `jax.random.key(seed)` of JAX's default generator, which forgets the
    higher bits of larger ones unless 64-bit types are enabled. ValueError for a seed out of range.

    >>> jax.random.key_data(seed_key(7)).tolist(), jax.random.key_data(seed_key(7 + 2**32)).tolist()
    ([0, 7], [1, 7])
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is outside [0, 2^63)")
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl=GENERATOR)


def typed_key(rng: AnyKey) -> Key[Array, "..."]:
    """The same key, or keys, with a key dtype; an old one (`jax.random.PRNGKey`) is uint32 words.

    TypeError for what is no key.

    >>> typed_key(jax.random.PRNGKey(7)) == jax.random.key(7)
    Array(True, dtype=bool)
    """
    if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        return rng
    if rng.dtype != jnp.uint32 or not rng.ndim:
        raise TypeError(f"{rng.dtype}{rng.shape} is no random key: take jax.random.key(seed)")
    return jax.random.wrap_key_data(rng)


def fold_in_rows(rng: AnyKey, rows: Int[Array, "B"] | UInt32[Array, "B"]) -> Key[Array, "B"]:
    """A key for each row, a function of `rng` and the row's number alone.

    The keys are Threefry's: a key of another generator is made one first, because bits that "rbg"
    draws for several keys at once depend on all of them.

    >>> keys = fold_in_rows(jax.random.key(0), jnp.array([3, 5]))
    >>> keys[1] == jax.random.fold_in(jax.random.key(0), 5)
    Array(True, dtype=bool)
    """
    rng = typed_key(rng)
    if str(jax.random.key_impl(rng)) != GENERATOR:
        rng = jax.random.wrap_key_data(jax.random.bits(rng, (2,), jnp.uint32), impl=GENERATOR)
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)
