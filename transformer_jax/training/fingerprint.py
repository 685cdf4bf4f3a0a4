"""A number per array that changes with every bit and position, computed on its devices."""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["fingerprints", "leaf_paths"]


def fingerprints(tree) -> dict[str, str]:
    """Compute a fingerprint of every leaf of a tree.

    Each 32-bit word of a leaf is mixed with its position (a Murmur3 finaliser), and the results
    are summed modulo 2^32. Integer addition has no rounding and no order, so the number is the
    same under any sharding and any number of devices.

    Returns:
        Path of the leaf -> eight hexadecimal digits.

    >>> a, b = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])
    >>> fingerprints({"w": a}) == fingerprints({"w": b})
    False
    """
    values = jax.device_get(_fingerprint_leaves(jax.tree.leaves(tree)))
    return {path: f"{int(value):08x}" for path, value in zip(leaf_paths(tree), values, strict=True)}


def leaf_paths(tree) -> list[str]:
    """List the paths of a tree's leaves, in their order.

    >>> leaf_paths({"layer": {"kernel": 1.0, "bias": 2.0}})
    ["['layer']['bias']", "['layer']['kernel']"]
    """
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


@jax.jit
def _fingerprint_leaves(leaves):
    return [_fingerprint(leaf) for leaf in leaves]


@jax.jit  # traced once for all arrays of a shape
def _fingerprint(leaf):
    widths = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    size = np.dtype(leaf.dtype).itemsize
    if size not in widths:
        raise TypeError(f"no fingerprint for {leaf.dtype}: only types of 1, 2 or 4 bytes")
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(leaf, widths[size]).astype(jnp.uint32)
    # The position of an entry, built from iotas so that no array is reshaped across shards.
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, length in enumerate(leaf.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        position = position * jnp.uint32(length) + index
    mixed = _mix(words ^ _mix(position + jnp.uint32(0x9E3779B9)))
    return jnp.sum(mixed, dtype=jnp.uint32)


def _mix(x):
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
