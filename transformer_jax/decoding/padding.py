"""Rows of token ids as arrays of few shapes."""

from collections.abc import Sequence

import numpy as np

from transformer_jax.data.vocabulary import PAD_ID

__all__ = ["pad_rows", "power_of_two", "round_size"]


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is not below `count`.

    >>> [power_of_two(count) for count in (0, 1, 3, 4, 5)]
    [1, 1, 4, 4, 8]
    """
    return 1 << (max(count, 1) - 1).bit_length()


def round_size(count: int, least: int) -> int:
    """Return the next of few sizes: multiples of `least` at first, then two for each doubling.

    Args:
        count: What there must be room for.
        least: The smallest size, a power of two.

    >>> [round_size(count, 16) for count in (0, 17, 49, 65, 97, 129, 1000)]
    [16, 32, 64, 96, 128, 192, 1024]
    """
    step = max(least, power_of_two(count) // 4)
    return -(-max(count, 1) // step) * step


def pad_rows(sentences: Sequence[Sequence[int]], size: int, width: int) -> np.ndarray:
    """Lay token ids in int32 [size, width]; rows left over are all padding.

    >>> pad_rows([[5, 1]], 2, 3).tolist()
    [[5, 1, 0], [0, 0, 0]]
    """
    rows = np.full((size, width), PAD_ID, np.int32)
    for row, ids in zip(rows, sentences):
        row[: len(ids)] = ids
    return rows
