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
    """Zero each entry with probability `rate` and scale the others by 1 / (1 - rate).

    Each decision takes 16 random bits, two from every 32-bit draw, which halves the cost of the
    generator. The probability is the multiple of 2^-16 nearest to `rate`, and the scale belongs to
    that multiple.

    Args:
        x: Any floating array.
        rate: Probability of a zero, in [0, 1).
        rng: One key, or one key per row of x: with one key per row, the mask of a row does not
            depend on the rest of the batch. None returns x itself, as rate 0 does.

    Returns:
        An array of x's shape and dtype.

    Raises:
        ValueError: The rate is outside [0, 1), or there are not as many keys as rows.
        TypeError: x is not floating.

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
    draw = functools.partial(_random_uint16, shape=x.shape[rng.ndim :])
    halves = jax.vmap(draw)(rng) if rng.ndim else draw(rng)
    kept = halves >= jnp.uint16(threshold)
    scale = 2**16 / (2**16 - threshold)
    # In bfloat16 the scale itself would be rounded, and with it the mean of every layer.
    scaled = (x.astype(jnp.float32) * scale).astype(x.dtype)
    return jnp.where(kept, scaled, jnp.zeros((), x.dtype))


def _random_uint16(rng, shape):
    """Draw uint16 numbers of this shape, two from each 32-bit word."""
    size = math.prod(shape)
    words = jax.random.bits(rng, ((size + 1) // 2,), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)
