"""Attention (section 3.2): weights from queries and keys, then a weighted sum of values.

Tensors are laid out [B, T, H, K] as in `jax.nn`; weights are [B, H, T, S].
Masks are boolean, True = may attend, have four axes and broadcast against [B, H, T, S].
Behind a mask any finite key and value weighs nothing; NaN and infinity do not disappear.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transformer_jax.functional.arguments import check_floating, check_mask, check_shape

__all__ = [
    "additive_attention_weights",
    "apply_attention",
    "attention_weights",
    "cached_attention",
    "dot_product_attention",
    "masked_softmax",
    "merge_heads",
    "split_heads",
]

Mask = Bool[Array, "#B #H #T #S"]

# Far below any score yet finite, and far enough from the end of the float32 range that
# subtracting a large score from it stays defined. A fill of -1e10 would lose to real scores
# of -1e30; -inf makes NaN in a row without any allowed key.
MASKED_SCORE = float(jnp.finfo(jnp.float32).min) / 2


def split_heads(x: Float[Array, "B T HK"], num_heads: int) -> Float[Array, "B T H K"]:
    """Split the last axis into heads, [B, T, H*K] -> [B, T, H, K].

    Head h owns the columns h*K to (h+1)*K.

    Args:
        x: Projected queries, keys or values, [B, T, H*K].
        num_heads: H.

    Returns:
        [B, T, H, K], a reshaped view of x.

    Raises:
        ValueError: The width is not divisible by num_heads.

    >>> split_heads(jnp.zeros((2, 3, 8)), 4).shape
    (2, 3, 4, 2)
    """
    batch, length, width = x.shape
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
    return x.reshape(batch, length, num_heads, width // num_heads)


def merge_heads(x: Float[Array, "B T H K"]) -> Float[Array, "B T HK"]:
    """Concatenate the heads again, [B, T, H, K] -> [B, T, H*K].

    This is "Concat" of section 3.2.2 and the inverse of `split_heads`.

    >>> merge_heads(jnp.zeros((2, 3, 4, 2))).shape
    (2, 3, 8)
    """
    batch, length, heads, size = x.shape
    return x.reshape(batch, length, heads * size)


def masked_softmax(
    scores: Float[Array, "B H T S"], mask: Mask | None = None
) -> Float[Array, "B H T S"]:
    """Compute the softmax over the keys in float32, with exact zeros behind the mask.

    A row in which no key is allowed becomes exact zeros with zero gradients, never NaN.

    Args:
        scores: [B, H, T, S].
        mask: Boolean, broadcastable to the scores, True = may attend; None allows everything.

    Returns:
        Weights [B, H, T, S] in float32; each row sums to 1, or is 0 where no key is allowed.

    Raises:
        TypeError: The mask is not boolean.
        ValueError: The mask does not broadcast to the scores.

    >>> masked_softmax(jnp.zeros((1, 1, 1, 4)), jnp.array([[[[True, True, False, False]]]]))
    Array([[[[0.5, 0.5, 0. , 0. ]]]], dtype=float32)
    >>> masked_softmax(jnp.zeros((1, 1, 1, 2)), jnp.array([[[[False, False]]]]))
    Array([[[[0., 0.]]]], dtype=float32)
    """
    scores = scores.astype(jnp.float32)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    check_mask(mask, scores.shape)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
    # Needed only by rows without an allowed key, whose softmax is uniform; also what cuts
    # the gradient of huge values behind the mask.
    return jnp.where(mask, weights, 0.0)


def attention_weights(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    mask: Mask | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """Compute softmax(Q K^T / sqrt(d_k)), the weights of equation 1.

    Scores and softmax are float32 whatever the inputs are.

    Args:
        query: [B, T, H, K].
        key: [B, S, H, K].
        mask: As in `masked_softmax`.
        scale: Replaces 1 / sqrt(d_k); 1.0 gives the unscaled form of section 3.2.1.

    Returns:
        Weights [B, H, T, S] in the dtype of the query.

    Raises:
        ValueError: Query and key differ in B, H or K, or the mask does not broadcast.
        TypeError: Query or key is not floating, or the mask is not boolean.

    >>> query, key = jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 2, 1, 4))
    >>> attention_weights(query, key)
    Array([[[[0.5, 0.5]]]], dtype=float32)
    """
    _check_query_key(query, key)
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    scores = jnp.einsum("bthk,bshk->bhts", query, key, preferred_element_type=jnp.float32)
    return masked_softmax(scores * scale, mask).astype(query.dtype)


def additive_attention_weights(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    vector: Float[Array, "H K"],
    mask: Mask | None = None,
) -> Float[Array, "B H T S"]:
    """Compute softmax(v . tanh(q + k)), the additive attention that section 3.2.1 compares with.

    Query and key are projected already, so q + k is the hidden layer of Bahdanau et al. (2015).
    It takes O(B T S H K) memory, the dot product O(B T S H). Scores are summed in float32.

    Args:
        query: [B, T, H, K].
        key: [B, S, H, K].
        vector: v, one vector per head, [H, K].
        mask: As in `masked_softmax`.

    Returns:
        Weights [B, H, T, S] in the dtype of the query.

    Raises:
        ValueError: Query, key and vector do not fit, or the mask does not broadcast.
        TypeError: Query or key is not floating, or the mask is not boolean.

    >>> query, key = jnp.zeros((1, 1, 1, 4)), jnp.zeros((1, 2, 1, 4))
    >>> additive_attention_weights(query, key, jnp.ones((1, 4)))
    Array([[[[0.5, 0.5]]]], dtype=float32)
    """
    _check_query_key(query, key)
    check_shape("vector", vector, query.shape[2:])
    # Added in float32: the gradient of either is a sum over the positions of the other.
    summed = query.astype(jnp.float32)[:, :, None] + key.astype(jnp.float32)[:, None]
    hidden = jnp.tanh(summed).astype(query.dtype)  # [B, T, S, H, K]
    scores = jnp.einsum("btshk,hk->bhts", hidden, vector, preferred_element_type=jnp.float32)
    return masked_softmax(scores, mask).astype(query.dtype)


def apply_attention(
    weights: Float[Array, "B H T S"], value: Float[Array, "B S H Dv"]
) -> Float[Array, "B T H Dv"]:
    """Multiply attention weights by the values: the product with V in equation 1.

    Args:
        weights: [B, H, T, S].
        value: [B, S, H, Dv].

    Returns:
        The weighted sums [B, T, H, Dv] in the dtype of the inputs.

    Raises:
        ValueError: The values have another batch, number of keys or number of heads.

    >>> apply_attention(jnp.full((1, 1, 1, 2), 0.5), jnp.array([[[[2.0]], [[4.0]]]]))
    Array([[[[3.]]]], dtype=float32)
    """
    batch, heads, _, keys = weights.shape
    check_shape("value", value, (batch, keys, heads, value.shape[-1]))
    return jnp.einsum("bhts,bshd->bthd", weights, value)


def dot_product_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H Dv"],
    mask: Mask | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H Dv"]:
    """Compute softmax(Q K^T / sqrt(d_k)) V, equation 1; d_v may differ from d_k.

    It equals `jax.nn.dot_product_attention`, except that a query without any allowed key gets
    zeros where jax.nn gives it the mean of all values.

    Args:
        query: [B, T, H, K].
        key: [B, S, H, K].
        value: [B, S, H, Dv].
        mask: As in `masked_softmax`.
        scale: As in `attention_weights`.

    Returns:
        [B, T, H, Dv].

    >>> query, key = jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 2, 1, 4))
    >>> dot_product_attention(query, key, jnp.array([[[[2.0]], [[4.0]]]]))
    Array([[[[3.]]]], dtype=float32)
    """
    return apply_attention(attention_weights(query, key, mask, scale=scale), value)


def cached_attention(
    query: Float[Array, "B T H K"],
    keys: Float[Array, "B H K S"],
    values: Float[Array, "B H S Dv"],
    mask: Mask | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H Dv"]:
    """Compute `dot_product_attention` of keys and values that lie as few queries read them fast.

    XLA copies whole tensors, or multiplies several times slower, where the two products of equation
    1 are not [T, K] x [K, S] and [T, S] x [S, Dv] with these axes last.

    Args:
        query: [B, T, H, K].
        keys: [B, H, K, S].
        values: [B, H, S, Dv], in the dtype of the keys, in which both products are computed.
        mask: As in `masked_softmax`.
        scale: As in `attention_weights`.

    Returns:
        [B, T, H, Dv], in the dtype of the query.

    Raises:
        ValueError: Query, keys and values do not fit, or the mask does not broadcast.
        TypeError: One of them is not floating, or the mask is not boolean.

    >>> query, keys = jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 1, 4, 2))
    >>> cached_attention(query, keys, jnp.array([[[[2.0], [4.0]]]]))
    Array([[[[3.]]]], dtype=float32)
    """
    for name, x in (("query", query), ("keys", keys), ("values", values)):
        check_floating(name, x)
    batch, _, heads, size = query.shape
    check_shape("keys", keys, (batch, heads, size, keys.shape[-1]))
    check_shape("values", values, (batch, heads, keys.shape[-1], values.shape[-1]))
    if scale is None:
        scale = 1.0 / math.sqrt(size)

    def multiply(left, right, dtype):
        axes = (((3,), (2,)), ((0, 1), (0, 1)))
        return jax.lax.dot_general(left, right, axes, preferred_element_type=dtype)

    rows = jnp.swapaxes(query, 1, 2).astype(keys.dtype)
    scores = multiply(rows, keys, jnp.float32)
    weights = masked_softmax(scores * scale, mask).astype(values.dtype)
    return jnp.swapaxes(multiply(weights, values, values.dtype), 1, 2).astype(query.dtype)


def _check_query_key(query, key):
    """Refuse shapes and dtypes that would give wrong weights silently.

    Axes of size 1 would broadcast, and integer inputs would round the weights to zero.
    """
    rest = (query.shape[0], *query.shape[2:])
    if rest != (key.shape[0], *key.shape[2:]):
        raise ValueError(f"query {query.shape} and key {key.shape} differ in batch, heads or size")
    for name, x in (("query", query), ("key", key)):
        check_floating(name, x)
