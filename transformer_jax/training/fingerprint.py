"""A number per array that changes with every bit and position, computed where the array is."""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["fingerprints", "leaf_paths"]

_FIRST_POSITION = np.uint32(0x9E3779B9)
_WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
# Words that NumPy mixes at once: few enough to stay in a processor's cache.
_WORDS_AT_ONCE = 2**15


def fingerprints(tree) -> dict[str, str]:
    """Compute a fingerprint of every leaf of a tree.

    Each 32-bit word of a leaf is mixed with its position (a Murmur3 finaliser), and the results
    are summed modulo 2^32. Integer addition has no rounding and no order, so the number is the
    same under any sharding and any number of devices. Arrays in the memory of this process need no
    program, whose compilation would take longer than they do.

    Returns:
        Path of the leaf -> eight hexadecimal digits.

    >>> a, b = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])
    >>> fingerprints({"w": a}) == fingerprints({"w": b})
    False
    """
    # NumPy's numbers in the types that JAX has of them.
    leaves = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in jax.tree.leaves(tree)]
    if all(map(_is_in_memory, leaves)):
        values = [_fingerprint_in_memory(np.asarray(leaf)) for leaf in leaves]
    else:
        values = jax.device_get(_fingerprint_leaves(leaves))
    return {path: f"{int(value):08x}" for path, value in zip(leaf_paths(tree), values, strict=True)}


def leaf_paths(tree) -> list[str]:
    """List the paths of a tree's leaves, in their order.

    >>> leaf_paths({"layer": {"kernel": 1.0, "bias": 2.0}})
    ["['layer']['bias']", "['layer']['kernel']"]
    """
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _is_in_memory(leaf) -> bool:
    """Whether this process can read a leaf without a transfer from a device."""
    return leaf.is_fully_addressable and all(each.platform == "cpu" for each in leaf.devices())


def _word_type(leaf):
    """The unsigned integer type that is as wide as a leaf's entries."""
    size = np.dtype(leaf.dtype).itemsize
    if size not in _WIDTHS:
        raise TypeError(f"no fingerprint for {leaf.dtype}: only types of 1, 2 or 4 bytes")
    return _WIDTHS[size]


def _fingerprint_in_memory(leaf: np.ndarray) -> int:
    words = leaf.reshape(-1).view(_word_type(leaf))
    total = 0
    for start in range(0, words.size, _WORDS_AT_ONCE):
        block = words[start : start + _WORDS_AT_ONCE].astype(np.uint32)
        position = np.arange(start, start + block.size).astype(np.uint32)
        total += int(_mix_words(block, position).sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _fingerprint_leaves(leaves):
    return [_fingerprint(leaf) for leaf in leaves]


@jax.jit  # traced once for all arrays of a shape
def _fingerprint(leaf):
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(leaf, _word_type(leaf)).astype(jnp.uint32)
    # The position of an entry, built from iotas so that no array is reshaped across shards.
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, length in enumerate(leaf.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        position = position * jnp.uint32(length) + index
    return jnp.sum(_mix_words(words, position), dtype=jnp.uint32)


def _mix_words(words, position):
    return _mix(words ^ _mix(position + _FIRST_POSITION))


def _mix(x):
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
