"""Attention masks: boolean, True = may attend.

They are drawn below as 1 and 0; rows are queries, columns are keys. Every mask broadcasts against
[B, H, T, S]; combine them with `combine_masks`.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from transformer_jax.functional.arguments import Size, check_axes, check_integer, check_mask

__all__ = ["causal_mask", "combine_masks", "local_window_mask", "padding_mask", "segment_mask"]


def padding_mask(tokens: Int[Array, "B S"], pad_id: int = 0) -> Bool[Array, "B 1 1 S"]:
    """Allow the keys that are tokens and not padding.

    tokens 5 6 0 ->  1 1 0   (for every query)

    Args:
        tokens: Integer ids [B, S].
        pad_id: The id of padding.

    Returns:
        [B, 1, 1, S].

    >>> padding_mask(jnp.array([[5, 6, 0]])).astype(int)
    Array([[[[1, 1, 0]]]], dtype=int32)
    """
    check_integer("tokens", tokens)
    check_axes("tokens", tokens, "B S")
    return (tokens != pad_id)[:, None, None, :]


def causal_mask(length: Size) -> Bool[Array, "1 1 T T"]:
    """Allow position t to attend to positions 0 to t (section 3.2.3, decoder self-attention).

        1 0 0
        1 1 0
        1 1 1

    >>> causal_mask(3)[0, 0].astype(int)
    Array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]], dtype=int32)
    """
    if length < 0:
        raise ValueError(f"length {length} is negative")
    positions = jnp.arange(length)
    return (positions[None, :] <= positions[:, None])[None, None]


def local_window_mask(length: Size, radius: int, causal: bool = False) -> Bool[Array, "1 1 T T"]:
    """Allow position t to attend to positions t - radius to t + radius ("restricted", section 4).

    radius 1:           causal:
        1 1 0 0             1 0 0 0
        1 1 1 0             1 1 0 0
        0 1 1 1             0 1 1 0
        0 0 1 1             0 0 1 1

    Args:
        length: T.
        radius: Positions to either side; Table 1's neighbourhood of size r is radius = r // 2.
        causal: Whether nothing after t is allowed.

    Returns:
        [1, 1, T, T].

    Raises:
        ValueError: The length or the radius is negative.

    >>> local_window_mask(4, 1)[0, 0].astype(int)
    Array([[1, 1, 0, 0],
           [1, 1, 1, 0],
           [0, 1, 1, 1],
           [0, 0, 1, 1]], dtype=int32)
    """
    for name, value in (("length", length), ("radius", radius)):
        if value < 0:
            raise ValueError(f"{name} {value} is negative")
    positions = jnp.arange(length)
    window = (jnp.abs(positions[None, :] - positions[:, None]) <= radius)[None, None]
    return window & causal_mask(length) if causal else window


def segment_mask(
    query_segments: Int[Array, "B T"], key_segments: Int[Array, "B S"], pad_id: int = 0
) -> Bool[Array, "B 1 T S"]:
    """Allow a token to attend to its own sentence only, where several are packed in one row.

    segments 1 1 2 0:
        1 1 0 0
        1 1 0 0
        0 0 1 0
        0 0 0 0

    Args:
        query_segments: Number of the sentence of each query, [B, T].
        key_segments: Number of the sentence of each key, [B, S].
        pad_id: The number that stands for padding, which nothing attends to.

    Returns:
        [B, 1, T, S].

    >>> segments = jnp.array([[1, 1, 2, 0]])
    >>> segment_mask(segments, segments)[0, 0].astype(int)
    Array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 0],
           [0, 0, 0, 0]], dtype=int32)
    """
    for name, segments in (("query_segments", query_segments), ("key_segments", key_segments)):
        check_integer(name, segments)
        check_axes(name, segments, "B T")
    if len(query_segments) != len(key_segments):
        raise ValueError(
            f"query_segments {query_segments.shape} and key_segments {key_segments.shape} are not "
            "of one batch"
        )
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments != pad_id)[:, None, :])[:, None]


def combine_masks(*masks: Bool[Array, "_ _ _ _"] | None) -> Bool[Array, "_ _ _ _"] | None:
    """Allow what every mask allows; None stands for "everything allowed".

    causal and padding of 5 6 0:
        1 0 0
        1 1 0
        1 1 0

    Raises:
        TypeError: A mask is not boolean.

    >>> combine_masks(causal_mask(3), padding_mask(jnp.array([[5, 6, 0]])))[0, 0].astype(int)
    Array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 0]], dtype=int32)
    >>> combine_masks(None, None) is None
    True
    """
    present = [mask for mask in masks if mask is not None]
    shape = jnp.broadcast_shapes(*(mask.shape for mask in present))
    for mask in present:
        check_mask(mask, shape)
    return functools.reduce(jnp.logical_and, present) if present else None
