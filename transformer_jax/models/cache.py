"""Changes of size of what a search keeps."""

import jax
import jax.numpy as jnp

__all__ = ["resize_axis"]


def resize_axis(values: jax.Array, size: int, axis: int) -> jax.Array:
    """Append zeros to an axis, or cut it off at its end.

    Args:
        values: Any array.
        size: Of the axis, afterwards.
        axis: The axis.

    >>> resize_axis(jnp.ones((1, 2)), 3, 1)
    Array([[1., 1., 0.]], dtype=float32)
    """
    old = values.shape[axis]
    if size <= old:
        return jax.lax.slice_in_dim(values, 0, size, axis=axis)
    room = [(0, 0)] * values.ndim
    room[axis] = (0, size - old)
    return jnp.pad(values, room)
