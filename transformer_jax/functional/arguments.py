"""What an argument must be, said where it would otherwise broadcast or round without a word."""

import jax
import jax.numpy as jnp

__all__ = [
    "check_axes",
    "check_floating",
    "check_integer",
    "check_mask",
    "check_shape",
    "rows_or_none",
]


def check_shape(name: str, x: jax.Array, shape: tuple[int, ...]) -> None:
    """ValueError for another shape."""
    if x.shape != shape:
        raise ValueError(f"the {name} has shape {x.shape}, not {shape}")


def check_axes(name: str, x: jax.Array, axes: str) -> None:
    """ValueError for another number of axes than `axes` has letters, separated by blanks."""
    if x.ndim != len(axes.split()):
        raise ValueError(f"the shape of the {name} is {x.shape}, not [{', '.join(axes.split())}]")


def check_floating(name: str, x: jax.Array) -> None:
    """TypeError for a dtype that is not floating."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"the {name} is {x.dtype}: it needs a floating dtype")


def check_integer(name: str, x: jax.Array) -> None:
    """TypeError for a dtype that is no integer."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"the {name} are {x.dtype}: they must be integers")


def check_mask(mask: jax.Array, shape: tuple[int, ...], true: str = "may attend") -> None:
    """TypeError for a mask that is not boolean, ValueError for one that does not broadcast to
    `shape`."""
    if mask.dtype != jnp.bool_:
        raise TypeError(f"the mask is {mask.dtype}: masks are boolean, True = {true}")
    if mask.ndim != len(shape) or any(m not in (1, n) for m, n in zip(mask.shape, shape)):
        raise ValueError(f"the mask has shape {mask.shape}: it must broadcast to {shape}")


def rows_or_none(ids: jax.Array, count: int) -> jax.Array:
    """Ids of `count` rows, with `count` for negative ones, which JAX would count from the end.

    A gather that fills what is beyond the last row then gives the same for both.

    >>> rows_or_none(jnp.array([1, -1], jnp.int8), 200).tolist()
    [1, 200]
    """
    ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # int8 cannot hold 200
    return jnp.where(ids < 0, count, ids)
