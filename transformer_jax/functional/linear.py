"""An affine map whose bias is added, and so has its gradient summed, in float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.functional.arguments import check_floating, check_shape

__all__ = ["linear"]


def linear(
    x: Float[Array, "... D"], kernel: Float[Array, "D F"], bias: Float[Array, "F"]
) -> Float[Array, "... F"]:
    """Compute x W + b.

    The product has the dtype of x and W, and accelerators accumulate it in float32. The bias is
    added in float32 whatever its dtype: its gradient is a sum over all positions, which in
    bfloat16 stops growing at 256 times its addends.

    Args:
        x: [..., D], floating.
        kernel: W, [D, F].
        bias: b, [F].

    Returns:
        [..., F] in the dtype of the product.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: x is not floating.

    >>> linear(jnp.ones((1, 2)), jnp.ones((2, 3)), jnp.array([0.0, 1.0, 2.0]))
    Array([[2., 3., 4.]], dtype=float32)
    """
    check_floating("input of linear", x)
    check_shape("kernel", kernel, (x.shape[-1], kernel.shape[-1]))
    check_shape("bias", bias, (kernel.shape[-1],))
    product = x @ kernel
    bias = jnp.expand_dims(bias.astype(jnp.float32), tuple(range(x.ndim - 1)))
    return (product.astype(jnp.float32) + bias).astype(product.dtype)
