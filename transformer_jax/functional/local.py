"""Attention restricted to a neighbourhood (Table 1), in blocks that cost O(r n d)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.functional.arguments import check_attention, check_shape
from transformer_jax.functional.attention import Mask, dot_product_attention
from transformer_jax.functional.masking import combine_masks, local_window_mask

__all__ = ["local_attention"]


def local_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T H K"],
    value: Float[Array, "B T H Dv"],
    mask: Mask | None = None,
    *,
    radius: int,
    causal: bool = False,
    scale: float | None = None,
    attend: Callable[..., jax.Array] = dot_product_attention,
) -> Float[Array, "B T H Dv"]:
    """Attend from each position to those at most `radius` away, forming T * 3 * radius weights.

    Queries are cut into blocks of `radius`, each of which attends to its own block and its
    neighbours. It equals `dot_product_attention` behind `local_window_mask`.

    Args:
        query: [B, T, H, K].
        key: [B, T, H, K].
        value: [B, T, H, Dv].
        mask: What else restricts attention, as in `masked_softmax`.
        radius: Positions to either side, at least 1.
        causal: Whether only positions before, and the position itself, are attended to.
        scale: As in `attention_weights`.
        attend: Computes the blocks; called as `dot_product_attention`.

    Returns:
        [B, T, H, Dv].

    Raises:
        ValueError: The shapes do not fit, or the radius is less than 1.
        TypeError: An argument is not floating, or the mask is not boolean.

    >>> x = jnp.arange(5.0).reshape(1, 5, 1, 1)
    >>> local_attention(0 * x, 0 * x, x, radius=1)[0, :, 0, 0]
    Array([0.5, 1. , 2. , 3. , 3.5], dtype=float32)
    """
    check_attention(query, key, value, mask)
    batch, length, heads, _ = query.shape
    check_shape("key", key, query.shape)
    if radius < 1:
        raise ValueError(f"radius {radius} is less than 1")
    neighbours = 2 if causal else 3
    # Blocks need a number, which `jax.export` has not while it traces.
    if not isinstance(length, int) or length <= neighbours * radius:
        seen = combine_masks(mask, local_window_mask(length, radius, causal))
        return attend(query, key, value, seen, scale=scale)
    blocks = -(-length // radius)
    missing = blocks * radius - length
    # Blocks before the first and after the last, which is their own.
    room = (radius, missing + (0 if causal else radius))

    def windows(x):
        """[B, T, H, K] -> [B, blocks, neighbours * radius, H, K]."""
        cut = jnp.pad(x, ((0, 0), room, (0, 0), (0, 0))).reshape(batch, -1, radius, *x.shape[2:])
        return jnp.concatenate([cut[:, i : i + blocks] for i in range(neighbours)], axis=2)

    def by_block(x):
        return x.reshape(batch * blocks, *x.shape[2:])

    queries = jnp.pad(query, ((0, 0), (0, missing), (0, 0), (0, 0)))
    here, there = jnp.arange(radius)[:, None] + radius, jnp.arange(neighbours * radius)[None]
    band = jnp.abs(here - there) <= radius
    if causal:
        band &= there <= here
    seen = _mask_by_block(mask, length, blocks, radius, room, neighbours * radius)
    seen = jnp.broadcast_to(seen & band[None, None, None], (batch, *seen.shape[1:3], *band.shape))
    found = attend(
        by_block(queries.reshape(batch, blocks, radius, heads, -1)),
        by_block(windows(key)),
        by_block(windows(value)),
        by_block(seen),
        scale=scale,
    )
    return found.reshape(batch, blocks * radius, heads, -1)[:, :length]


def _mask_by_block(mask, length: int, blocks: int, radius: int, room, window: int):
    """What each block of queries may see of its window, [#B, blocks, #H, #radius, window]."""
    if mask is None:
        mask = jnp.ones((1, 1, 1, length), bool)
    rows, heads, queries, keys = mask.shape
    mask = jnp.broadcast_to(mask, (rows, heads, queries, length)) if keys == 1 else mask
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), room))
    if queries > 1:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, blocks * radius - length), (0, 0)))
        mask = mask.reshape(rows, heads, blocks, radius, -1)

    def cut(mask, block):
        return jax.lax.dynamic_slice_in_dim(mask, block * radius, window, axis=3)

    axis = None if queries == 1 else 2
    return jax.vmap(cut, in_axes=(axis, 0), out_axes=1)(mask, jnp.arange(blocks))
