"""Dropout (section 5.4): on exactly when a random key is given."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.functional.arguments import check_floating
from transformer_jax.functional.keys import AnyKey, row_keys, typed_key

__all__ = ["dropout"]


def dropout(x: Float[Array, "..."], rate: float, rng: AnyKey | None) -> Float[Array, "..."]:
    """Zero each entry with probability `rate` and scale the rest by 1 / (1 - rate).

    `rng` is one key, or one for each row of x, which then draws alike in any company. Without it,
    or at rate 0, x itself. Decisions take 16 random bits each, two from every 32-bit draw, which
    halves the cost of the generator; the probability is the multiple of 2^-16 nearest to `rate`
    and the scale is that of this same number; x keeps its dtype, which must be floating
    (TypeError). ValueError for a rate outside [0, 1), or keys that are not as many as rows.

    >>> dropout(jnp.ones(4), 0.5, None)
    Array([1., 1., 1., 1.], dtype=float32)
    >>> sorted(set(dropout(jnp.ones(64), 0.5, jax.random.key(0)).tolist()))
    [0.0, 2.0]
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate {rate} is outside [0, 1)")
    if rng is None or rate == 0.0:
        return x
    check_floating("input of dropout", x)
    rng = typed_key(rng)
    rng = row_keys(rng) if rng.ndim else rng
    if rng.ndim and rng.shape != x.shape[:1]:
        raise ValueError(f"{rng.shape[0]} keys do not fit {x.shape[:1]} rows")
    threshold = min(round(rate * 2**16), 2**16 - 1)
    draw = functools.partial(_halves, shape=x.shape[rng.ndim :])
    halves = jax.vmap(draw)(rng) if rng.ndim else draw(rng)
    kept = halves >= jnp.uint16(threshold)
    scale = 2**16 / (2**16 - threshold)
    # In bfloat16 the scale itself would be rounded, and with it the mean of every layer.
    scaled = (x.astype(jnp.float32) * scale).astype(x.dtype)
    return jnp.where(kept, scaled, jnp.zeros((), x.dtype))


def _halves(rng, shape):
    """uint16 of this shape."""
    size = math.prod(shape)
    words = jax.random.bits(rng, ((size + 1) // 2,), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)
