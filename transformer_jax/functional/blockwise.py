"""Attention in blocks of queries and keys, for sequences whose weights do not fit in memory."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.functional.arguments import promote_attention
from transformer_jax.functional.attention import MASKED_SCORE, Mask

__all__ = ["blockwise_attention"]


def blockwise_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H Dv"],
    mask: Mask | None = None,
    *,
    scale: float | None = None,
    block: int = 512,
) -> Float[Array, "B T H Dv"]:
    """Compute `dot_product_attention` with the weights of one block of queries and keys at a time.

    Forward it is the softmax that is corrected as larger scores are found (Rabe and Staats 2021,
    "Self-attention Does Not Need O(n^2) Memory"). For the backward pass each query's log-sum of
    exponentials is kept, from which the weights of a block are computed anew (Dao 2023,
    FlashAttention-2, algorithms 1 and 2). Blocks that the mask excludes as a whole are skipped.

    Args:
        query: [B, T, H, K].
        key: [B, S, H, K].
        value: [B, S, H, Dv].
        mask: As in `masked_softmax`.
        scale: As in `attention_weights`; a number, not an array.
        block: Most queries, and most keys, of a block.

    Returns:
        [B, T, H, Dv].

    Raises:
        ValueError: The shapes do not fit, or the mask does not broadcast.
        TypeError: An input is not floating, or the mask is not boolean.

    >>> query, key = jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 2, 1, 4))
    >>> blockwise_attention(query, key, jnp.array([[[[2.0]], [[4.0]]]]), block=1)
    Array([[[[3.]]]], dtype=float32)
    """
    result_dtype = jnp.result_type(query, value)
    query, key, value = promote_attention(query, key, value, mask)
    if block < 1:
        raise ValueError(f"block {block} must be positive")
    length, keys = query.shape[1], key.shape[1]
    if not length or not keys:
        return jnp.zeros((*query.shape[:3], value.shape[-1]), result_dtype)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    queries, columns = _block_size(length, block), _block_size(keys, block)
    if keys % columns and (mask is None or mask.shape[3] == 1):
        is_key = jnp.ones((1, 1, 1, keys), jnp.bool_)  # what fills the last block is none
        mask = is_key if mask is None else mask & is_key
    result = _attention(
        _cut(query, queries), _cut(key, columns), _cut(value, columns),
        _pad_mask(mask, queries, columns), scale,
    )  # fmt: skip
    return _join(result)[:, :length].astype(result_dtype)


def _block_size(length, block):
    """Blocks as equal as can be, so that the last is not mostly filling."""
    return -(-length // -(-length // block))


def _cut(x, block):
    """[B, T, H, K] -> [blocks, B, H, block, K], filled up with zeros."""
    batch, length, heads, size = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
    return jnp.transpose(x.reshape(batch, -1, block, heads, size), (1, 0, 3, 2, 4))


def _join(blocks):
    """Undo `_cut`, but for the filling."""
    number, batch, heads, block, size = blocks.shape
    return jnp.transpose(blocks, (1, 0, 3, 2, 4)).reshape(batch, number * block, heads, size)


def _pad_mask(mask, queries, columns):
    if mask is None:
        return None
    sizes = (1, 1, queries, columns)
    rests = [0 if n == 1 else -n % size for n, size in zip(mask.shape, sizes)]
    return jnp.pad(mask, [(0, rest) for rest in rests])


def _mask_at(mask, row, column, shape):
    """The mask of one block [.., .., queries or 1, keys or 1]."""
    for axis, number, size in ((2, row, shape[0]), (3, column, shape[1])):
        if mask.shape[axis] != 1:
            mask = jax.lax.dynamic_slice_in_dim(mask, number * size, size, axis)
    return mask


def _multiply(left, right, left_axis, right_axis):
    axes = (((left_axis,), (right_axis,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _where_seen(mask, row, column, shape, compute, skipped):
    """compute(mask of the block), or `skipped` where it allows nothing."""
    if mask is None:
        return compute(None)
    seen = _mask_at(mask, row, column, shape)
    return jax.lax.cond(seen.any(), lambda: compute(seen), lambda: skipped)


def _scores(query, key, seen, scale):
    scores = _multiply(query, key, 3, 3) * scale
    return scores if seen is None else jnp.where(seen, scores, MASKED_SCORE)


def _clear(weights, seen):
    return weights if seen is None else jnp.where(seen, weights, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(query, key, value, mask, scale):
    return _forward(query, key, value, mask, scale)[0]


def _forward(query, key, value, mask, scale):
    shape = query.shape[3], key.shape[3]

    def of_queries(row_and_query):
        row, query = row_and_query

        def add_keys(state, column_key_value):
            column, key, value = column_key_value

            def extend(seen):
                largest, total, summed = state
                scores = _scores(query, key, seen, scale)
                larger = jnp.maximum(largest, scores.max(axis=-1))
                weights = _clear(jnp.exp(scores - larger[..., None]), seen)
                shrink = jnp.exp(largest - larger)
                product = _multiply(weights.astype(value.dtype), value, 3, 2)
                total = total * shrink + weights.sum(axis=-1)
                return larger, total, summed * shrink[..., None] + product

            return _where_seen(mask, row, column, shape, extend, state), None

        rows = query.shape[:3]
        start = (
            jnp.full(rows, MASKED_SCORE, jnp.float32),
            jnp.zeros(rows, jnp.float32),
            jnp.zeros((*rows, value.shape[-1]), jnp.float32),
        )
        xs = jnp.arange(len(key)), key, value
        largest, total, summed = jax.lax.scan(add_keys, start, xs)[0]
        # A query without any key has nothing to divide, and stays zero.
        total = jnp.where(total == 0, 1.0, total)
        return (summed / total[..., None]).astype(query.dtype), largest + jnp.log(total)

    result, log_total = jax.lax.map(of_queries, (jnp.arange(len(query)), query))
    return result, (query, key, value, mask, result, log_total)


def _backward(scale, kept, of_result):
    query, key, value, mask, result, log_total = kept
    shape = query.shape[3], key.shape[3]
    # sum(dP * P) of each query
    shared = (of_result.astype(jnp.float32) * result.astype(jnp.float32)).sum(axis=-1)
    rows = jnp.arange(len(query)), query, of_result, log_total, shared

    def of_keys(of_query, column_key_value):
        column, key, value = column_key_value

        def add_queries(sums, row_values):
            row, query, of_result, log_total, shared = row_values

            def extend(seen):
                of_key, of_value = sums
                scores = _scores(query, key, seen, scale)
                weights = _clear(jnp.exp(scores - log_total[..., None]), seen)
                of_weights = _multiply(of_result, value, 3, 3)
                of_scores = weights * (of_weights - shared[..., None])
                of_scores = (_clear(of_scores, seen) * scale).astype(query.dtype)
                of_value += _multiply(weights.astype(query.dtype), of_result, 2, 2)
                of_key += _multiply(of_scores, query, 2, 2)
                return (of_key, of_value), _multiply(of_scores, key, 3, 2)

            skipped = sums, jnp.zeros(query.shape, jnp.float32)
            return _where_seen(mask, row, column, shape, extend, skipped)

        start = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
        sums, more = jax.lax.scan(add_queries, start, rows)
        return of_query + more, tuple(each.astype(key.dtype) for each in sums)

    start = jnp.zeros(query.shape, jnp.float32)
    of_query, (of_key, of_value) = jax.lax.scan(of_keys, start, (jnp.arange(len(key)), key, value))
    return of_query.astype(query.dtype), of_key, of_value, None


_attention.defvjp(_forward, _backward)
