"""The largest of many values, found by blocks."""

import jax
import jax.numpy as jnp

__all__ = ["top_values"]

BLOCK = 128


def top_values(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Find what `jax.lax.top_k` finds: the `count` largest along the last axis and their indices.

    The largest are in the blocks with the largest maxima, so only those are searched. Equal values
    come in the order of their indices, as there.

    Args:
        values: [B, M].
        count: At most M.

    Returns:
        Values and indices, both [B, count].

    >>> top_values(jnp.arange(1000.0)[None], 2)[1]
    Array([[999, 998]], dtype=int32)
    """
    rows, size = values.shape
    blocks = -(-size // BLOCK)
    if blocks <= 4 * count:
        return jax.lax.top_k(values, count)
    padded = jnp.pad(values, ((0, 0), (0, blocks * BLOCK - size)), constant_values=-jnp.inf)
    grouped = padded.reshape(rows, blocks, BLOCK)
    _, chosen = jax.lax.top_k(grouped.max(axis=-1), count)
    chosen = jnp.sort(chosen, axis=1)  # so that of equal values the first is found
    offered = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1)
    best, index = jax.lax.top_k(offered.reshape(rows, count * BLOCK), count)
    block = jnp.take_along_axis(chosen, index // BLOCK, axis=1)
    return best, block * BLOCK + index % BLOCK
