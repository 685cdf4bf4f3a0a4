"""The largest of many values, found by blocks."""

import math

import jax
import jax.numpy as jnp

__all__ = ["top_values"]


def top_values(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Find what `jax.lax.top_k` finds: the `count` largest along the last axis and their indices.

    The largest are in the blocks with the largest maxima, so only those are searched. Equal values
    come in the order of their indices, as there.

    Args:
        values: [B, M], floating, none NaN.
        count: At most M.

    Returns:
        Values and indices, both [B, count].

    >>> top_values(jnp.arange(1000.0)[None], 2)[1]
    Array([[999, 998]], dtype=int32)
    """
    rows, size = values.shape
    block = _block_size(size, count)
    blocks = -(-size // block)
    if 2 * (blocks + count * block) > size:
        return jax.lax.top_k(values, count)
    padded = jnp.pad(values, ((0, 0), (0, blocks * block - size)), constant_values=-jnp.inf)
    grouped = padded.reshape(rows, blocks, block)
    _, chosen = jax.lax.top_k(grouped.max(axis=-1), count)
    chosen = jnp.sort(chosen, axis=1)  # so that of equal values the first is found
    offered = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1)
    best, index = jax.lax.top_k(offered.reshape(rows, count * block), count)
    number = jnp.take_along_axis(chosen, index // block, axis=1)
    return best, number * block + index % block


def _block_size(size: int, count: int) -> int:
    """The size that makes as many blocks as values to search in the chosen ones, or near it.

    One that divides the values needs no copy of them with padding.
    """
    best = max(round(math.sqrt(size / count)), 1)
    divisors = (block for block in range(best, 2 * best) if size % block == 0)
    return next(divisors, best)
