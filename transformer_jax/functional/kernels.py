"""The same formulas with gradients of their own, which keep less and are computed faster.

Each equals its definition, `dot_product_attention`, `linear` or `unembed`, in value (on a CPU in
bfloat16 up to rounding), and in its gradient up to rounding. Where the inputs are narrow, as
bfloat16, so is every factor of a matrix product of the backward pass. They have no forward-mode
derivative (`jax.jvp`), and a `jax.shard_map` around them needs `check_vma=False`: take the
definition where that does not do.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from transformer_jax.functional.arguments import (
    check_attention,
    check_floating,
    check_shape,
    promote_attention,
)
from transformer_jax.functional.attention import Mask, attention_weights
from transformer_jax.functional.products import product, product_dtype

__all__ = ["PRODUCT", "compact_attention", "compact_linear", "compact_unembed", "cudnn_attention"]

# The name of what `compact_linear` computes, for policies of `jax.checkpoint`.
PRODUCT = "product of compact_linear"


def compact_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H Dv"],
    mask: Mask | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H Dv"]:
    """Compute `dot_product_attention`; of [B, H, T, S] only the weights are kept, as narrow as they
    are multiplied.

    With P the weights, O the result and dO its gradient, the scores' gradient is

        dS = P * (dO V^T - sum(dO * O))

    (section 3.1 of Dao et al. 2022, FlashAttention, from P instead of computed anew).

    Args:
        query: [B, T, H, K].
        key: [B, S, H, K].
        value: [B, S, H, Dv].
        mask: As in `masked_softmax`.
        scale: As in `attention_weights`; a number, not an array.

    Returns:
        [B, T, H, Dv].

    Raises:
        ValueError: The shapes do not fit, or the mask does not broadcast.
        TypeError: An input is not floating, or the mask is not boolean.

    >>> query, key = jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 2, 1, 4))
    >>> compact_attention(query, key, jnp.array([[[[2.0]], [[4.0]]]]))
    Array([[[[3.]]]], dtype=float32)
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    result_dtype = jnp.result_type(query, value)
    query, key, value = promote_attention(query, key, value, mask)
    return _attention(query, key, value, mask, scale).astype(result_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(query, key, value, mask, scale):
    return _attention_forward(query, key, value, mask, scale)[0]


def _attention_forward(query, key, value, mask, scale):
    weights = attention_weights(query, key, mask, scale=scale)
    result = _multiply("bhts,bshd->bthd", weights, value)
    return result, (query, key, value, mask, weights, result)


def _attention_backward(scale, kept, of_result):
    query, key, value, mask, weights, result = kept
    # Transposed, the products read what is [B, H, T, S] as it lies: XLA would copy it otherwise.
    of_value = _multiply("bthd,bhts->bhds", of_result, weights)
    of_weights = jnp.einsum("bthd,bshd->bhts", of_result, value, preferred_element_type=jnp.float32)
    shared = jnp.einsum(
        "bthd,bthd->bht", of_result, result, preferred_element_type=jnp.float32
    )  # sum(dP * P) of each query
    of_scores = weights.astype(jnp.float32) * (of_weights - shared[..., None])
    if mask is not None:
        # Behind the mask a huge value may have made infinity, which zero weights leave NaN.
        of_scores = jnp.where(mask, of_scores, 0.0)
    of_scores = (of_scores * scale).astype(query.dtype)
    of_query = _multiply("bhts,bshk->bthk", of_scores, key)
    of_key = _multiply("bthk,bhts->bhks", query, of_scores)
    return of_query, *(jnp.transpose(x, (0, 3, 1, 2)) for x in (of_key, of_value)), None


_attention.defvjp(_attention_forward, _attention_backward)


def _multiply(formula, left, right):
    """The einsum of two arrays of a dtype, in their dtype."""
    dtype = left.dtype
    wide = product_dtype(dtype)
    return jnp.einsum(formula, left, right, preferred_element_type=wide).astype(dtype)


def cudnn_attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    mask: Mask | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H K"]:
    """Compute `dot_product_attention` with cuDNN on a CUDA device; elsewhere `compact_attention`.

    Args:
        query: [B, T, H, K], bfloat16 or float16; K is a multiple of 8 up to 128.
        key: [B, S, H, K].
        value: [B, S, H, K].
        mask: As in `masked_softmax`.
        scale: As in `attention_weights`; a number, not an array.

    Returns:
        [B, T, H, K].

    Raises:
        ValueError: The shapes do not fit, or K is no multiple of 8 up to 128.
        TypeError: The inputs have 32 bits, or the mask is not boolean.

    >>> query, key = jnp.ones((1, 1, 1, 8), jnp.bfloat16), jnp.zeros((1, 2, 1, 8), jnp.bfloat16)
    >>> cudnn_attention(query, key, key + 3).shape
    (1, 1, 1, 8)
    """
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise TypeError(f"the query is {query.dtype}: cuDNN's attention takes bfloat16 or float16")
    check_attention(query, key, value, mask)
    check_shape("value", value, key.shape)
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        raise ValueError(
            f"the heads are {query.shape[-1]} wide: cuDNN's attention takes 8, 16, .. 128"
        )
    if jax.default_backend() != "gpu":
        return compact_attention(query, key, value, mask, scale=scale)
    length, keys = query.shape[1], key.shape[1]
    if keys % 2 and mask is None:
        mask = jnp.ones((1, 1, 1, keys), jnp.bool_)
    if mask is not None:
        # cuDNN broadcasts rows and heads, not queries.
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, keys))
        mask = _to_even(mask, 2, 3)
    # Its backward pass takes even lengths; what is added as a key is masked.
    result = jax.nn.dot_product_attention(
        _to_even(query, 1),
        _to_even(key, 1),
        _to_even(value, 1),
        mask=mask,
        scale=scale,
        implementation="cudnn",
    )
    if mask is not None:
        # It gives a query without any key the mean of all values.
        some = jnp.swapaxes(mask.any(axis=-1), 1, 2)[..., None]
        result = jnp.where(some, result, jnp.zeros((), result.dtype))
    return result[:, :length]


def _to_even(x, *axes):
    """Fill axes up to an even length, with zeros or False."""
    return jnp.pad(x, [(0, n % 2 if axis in axes else 0) for axis, n in enumerate(x.shape)])


def compact_linear(
    x: Float[Array, "... D"],
    kernels: Sequence[Float[Array, "D _"]],
    biases: Sequence[Float[Array, "_"]],
) -> tuple[Float[Array, "... _"], ...]:
    """Compute `linear` of one x with each kernel and bias, those of equal width as one product.

    Args:
        x: [..., D], floating.
        kernels: Each [D, F], with an F of its own.
        biases: Each [F].

    Returns:
        One [..., F] for each kernel.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: x is not floating.

    >>> kernels, biases = [jnp.ones((2, 3)), jnp.zeros((2, 3))], [jnp.zeros(3), jnp.ones(3)]
    >>> for each in compact_linear(jnp.ones((1, 2)), kernels, biases):
    ...     print(each)
    [[2. 2. 2.]]
    [[1. 1. 1.]]
    """
    check_floating("input of linear", x)
    if len(kernels) != len(biases):
        raise ValueError(f"there are {len(kernels)} kernels and {len(biases)} biases")
    for kernel, bias in zip(kernels, biases):
        check_shape("kernel", kernel, (x.shape[-1], kernel.shape[-1]))
        check_shape("bias", bias, (kernel.shape[-1],))
    dtype = jnp.result_type(x, *kernels)
    x, kernels = x.astype(dtype), [kernel.astype(dtype) for kernel in kernels]
    found: dict[int, Array] = {}
    for width in dict.fromkeys(kernel.shape[1] for kernel in kernels):
        of_width = [i for i, kernel in enumerate(kernels) if kernel.shape[1] == width]
        outputs = _linear_of_one_width(
            x, [kernels[i] for i in of_width], [biases[i] for i in of_width]
        )
        found |= dict(zip(of_width, outputs))
    return tuple(found[i] for i in range(len(kernels)))


def _linear_of_one_width(x, kernels, biases):
    if len(kernels) == 1:  # a stack of one would be a copy
        return [checkpoint_name(_linear(x, kernels[0], biases[0]), PRODUCT)]
    # Side by side along an axis of their own: a mesh may divide that of the heads.
    joined = checkpoint_name(_linear(x, jnp.stack(kernels, axis=1), jnp.stack(biases)), PRODUCT)
    return [joined[..., place, :] for place in range(len(kernels))]


@jax.custom_vjp
def _linear(x, kernel, bias):
    """x [..., D], kernel [D, ...], bias [...] -> [..., ...]."""
    bias = jnp.expand_dims(bias.astype(jnp.float32), tuple(range(x.ndim - 1)))
    found = product(x, kernel, ((x.ndim - 1,), (0,)), product_dtype(x.dtype))
    return (found.astype(jnp.float32) + bias).astype(x.dtype)


def _linear_forward(x, kernel, bias):
    return _linear(x, kernel, bias), (x, kernel, bias)


def _linear_backward(kept, of_result):
    x, kernel, bias = kept
    rows = tuple(range(x.ndim - 1))
    last = tuple(range(x.ndim - 1, of_result.ndim))
    of_x = product(of_result, kernel, (last, tuple(range(1, kernel.ndim))))
    # JAX would compute its transpose, for which XLA on a CPU writes out that of `of_result`. As a
    # sum over rows it is no faster with a float32 result.
    of_kernel = jax.lax.dot_general(x, of_result, ((rows, rows), ((), ())))
    of_bias = jnp.sum(of_result.astype(jnp.float32), axis=rows).astype(bias.dtype)
    return of_x, of_kernel, of_bias


_linear.defvjp(_linear_forward, _linear_backward)


def compact_unembed(x: Float[Array, "B T D"], table: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Compute `unembed`; in both products the logits' gradient has the dtype of x and the table.

    Args:
        x: [B, T, D].
        table: E, [V, D].

    Returns:
        Logits [B, T, V] in float32.

    Raises:
        ValueError: The widths differ.

    >>> compact_unembed(jnp.ones((1, 1, 4)), jnp.ones((2, 4)))
    Array([[[4., 4.]]], dtype=float32)
    """
    check_shape("table", table, (table.shape[0], x.shape[-1]))
    dtype = jnp.result_type(x, table)
    return _unembed(x.astype(dtype), table.astype(dtype))


@jax.custom_vjp
def _unembed(x, table):
    return product(x, table, ((2,), (1,)), jnp.float32)


def _unembed_forward(x, table):
    return _unembed(x, table), (x, table)


def _unembed_backward(kept, of_logits):
    x, table = kept
    of_logits = of_logits.astype(x.dtype)
    of_x = product(of_logits, table, ((2,), (0,)))
    return of_x, jnp.einsum("btv,btd->vd", of_logits, x)


_unembed.defvjp(_unembed_forward, _unembed_backward)
