"""Convolutions over the positions of a sentence, and the gate that follows them.

Gehring et al., Convolutional Sequence to Sequence Learning (2017, arXiv 1705.03122), section 3.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.functional.arguments import check_axes, check_floating, check_shape
from transformer_jax.functional.linear import linear

__all__ = ["convolution", "gated_linear_unit", "receptive_field"]


def convolution(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "k D F"],
    bias: Float[Array, "F"],
    *,
    dilation: int = 1,
    causal: bool = True,
) -> Float[Array, "B T F"]:
    """Compute y[t] = b + sum over j of x[t - (k - 1 - j) * dilation] W[j], zeros before the start.

    It is one product of [B * T, k * D] and [k * D, F].

    Args:
        x: [B, T, D].
        kernel: W, [k, D, F]; W[k - 1] belongs to the position itself where it is causal.
        bias: b, [F].
        dilation: Positions from one entry of the kernel to the next.
        causal: Whether y[t] depends on x[: t + 1] alone. Otherwise the kernel lies half before and
            half after the position; of an odd number one more after it.

    Returns:
        [B, T, F] in the dtype of the product.

    Raises:
        ValueError: The shapes do not fit, or the dilation is less than 1.
        TypeError: x is not floating.

    >>> x, kernel = jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([[[10.0]], [[1.0]]])
    >>> convolution(x, kernel, jnp.zeros(1))[0, :, 0]
    Array([ 1., 12., 23.], dtype=float32)
    >>> convolution(x, kernel, jnp.zeros(1), causal=False)[0, :, 0]
    Array([12., 23., 30.], dtype=float32)
    """
    check_axes("input of convolution", x, "B T D")
    check_floating("input of convolution", x)
    check_axes("kernel", kernel, "k D F")
    width, _, features = kernel.shape
    check_shape("kernel", kernel, (width, x.shape[-1], features))
    check_shape("bias", bias, (features,))
    if dilation < 1:
        raise ValueError(f"dilation {dilation} is less than 1")
    length, span = x.shape[1], (width - 1) * dilation
    before = span if causal else span // 2
    padded = jnp.pad(x, ((0, 0), (before, span - before), (0, 0)))
    seen = [padded[:, j * dilation : j * dilation + length] for j in range(width)]
    return linear(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, features), bias)


def gated_linear_unit(x: Float[Array, "... DD"]) -> Float[Array, "... D"]:
    """Compute a * sigmoid(b) of the two halves a and b of the last axis (Dauphin et al. 2016).

    Args:
        x: [..., 2 D].

    Returns:
        [..., D] in the dtype of x.

    Raises:
        ValueError: The width is odd.

    >>> gated_linear_unit(jnp.array([3.0, 0.0]))
    Array([1.5], dtype=float32)
    """
    if x.shape[-1] % 2:
        raise ValueError(f"the width {x.shape[-1]} is odd: a gate needs two halves")
    values, gates = jnp.split(x, 2, axis=-1)
    return values * jax.nn.sigmoid(gates)


def receptive_field(width: int, dilations: Iterable[int]) -> int:
    """Count the positions on which one output of stacked convolutions depends, itself included.

    It is 1 + (width - 1) * (sum of the dilations).

    Args:
        width: k, entries of each kernel.
        dilations: The dilation of each layer.

    Returns:
        A number of positions, at least 1.

    >>> receptive_field(3, [1, 1, 1, 1]), receptive_field(3, [1, 2, 4, 8])
    (9, 31)
    """
    return 1 + (width - 1) * sum(dilations)
