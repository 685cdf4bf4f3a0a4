"""Checks of arguments that would otherwise broadcast or round silently."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "Size",
    "check_attention",
    "check_axes",
    "check_floating",
    "check_integer",
    "check_mask",
    "check_shape",
    "promote_attention",
    "replace_negative_ids",
]

# Of an axis: a number, or what stands for any where `jax.export` traces a program of any sizes.
Size = Any


def check_shape(name: str, x: jax.Array, shape: tuple[Size, ...]) -> None:
    """Raise ValueError if x has another shape; `name` is what the message calls it."""
    if x.shape != shape:
        raise ValueError(f"the {name} has shape {x.shape}, not {shape}")


def check_axes(name: str, x: jax.Array, axes: str) -> None:
    """Raise ValueError if x has not as many axes as `axes` has letters, separated by blanks."""
    if x.ndim != len(axes.split()):
        raise ValueError(f"the shape of the {name} is {x.shape}, not [{', '.join(axes.split())}]")


def check_floating(name: str, x: jax.Array) -> None:
    """Raise TypeError if the dtype of x is not floating."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"the {name} is {x.dtype}: it needs a floating dtype")


def check_integer(name: str, x: jax.Array) -> None:
    """Raise TypeError if the dtype of x is not an integer."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"the {name} are {x.dtype}: they must be integers")


def check_mask(mask: jax.Array, shape: tuple[Size, ...], true: str = "may attend") -> None:
    """Raise TypeError if the mask is not boolean, ValueError if it does not broadcast to `shape`.

    `true` is what the message says that True means.
    """
    if mask.dtype != jnp.bool_:
        raise TypeError(f"the mask is {mask.dtype}: masks are boolean, True = {true}")
    if mask.ndim != len(shape) or any(m not in (1, n) for m, n in zip(mask.shape, shape)):
        raise ValueError(f"the mask has shape {mask.shape}: it must broadcast to {shape}")


def promote_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check as `check_attention`, and give query, key and value the dtype of their products."""
    check_attention(query, key, value, mask)
    dtype = jnp.result_type(query, key, value)
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)


def check_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> None:
    """Raise an error unless the arguments of an attention are of one batch, and floating.

    query [B, T, H, K], key [B, S, H, K], value [B, S, H, Dv], mask broadcastable to [B, H, T, S].
    """
    for name, x in (("query", query), ("key", key), ("value", value)):
        check_floating(name, x)
    batch, length, heads, size = query.shape
    keys = key.shape[1]
    check_shape("key", key, (batch, keys, heads, size))
    check_shape("value", value, (batch, keys, heads, value.shape[-1]))
    if mask is not None:
        check_mask(mask, (batch, heads, length, keys))


def replace_negative_ids(ids: jax.Array, count: int) -> jax.Array:
    """Replace negative ids by `count`, which is no row either; JAX would count them from the end.

    A gather that fills what is beyond the last row then gives the same for both.

    >>> replace_negative_ids(jnp.array([1, -1], jnp.int8), 200).tolist()
    [1, 200]
    """
    ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # int8 cannot hold 200
    return jnp.where(ids < 0, count, ids)
