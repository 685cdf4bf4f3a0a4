"""Position encodings (section 3.5): sinusoids in three layouts, and rows of a learned table."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transformer_jax.functional.arguments import Size, check_axes, check_integer

__all__ = ["SinusoidLayout", "learned_positions", "segment_positions", "sinusoids", "sinusoids_at"]

SinusoidLayout = Literal["paper", "concatenated", "t2t"]


def sinusoids(length: Size, d_model: int, layout: SinusoidLayout = "paper") -> Float[Array, "T D"]:
    """Compute PE(pos, 2i) = sin(pos / 10000^(2i/d_model)) and PE(pos, 2i+1) = cos(the same).

    The layouts are::

        layout        columns                       exponent of 10000
        paper         sin cos sin cos ...           2i / d_model           (section 3.5)
        concatenated  all sines, then all cosines   2i / d_model           (Hugging Face Marian)
        t2t           all sines, then all cosines   i / (d_model/2 - 1)    (tensor2tensor, fairseq)

    Angles are computed in float64 and rounded once: in float32 the angle itself is off by 6e-5 at
    position 1000. The result is a constant of the compiled program.

    Args:
        length: T, a number, or a symbolic dimension of `jax.export`.
        d_model: D, even.
        layout: One of the three above.

    Returns:
        [T, D] in float32.

    Raises:
        ValueError: The layout is unknown, the length negative or d_model odd.

    >>> sinusoids(2, 4).round(4)
    Array([[0.    , 1.    , 0.    , 1.    ],
           [0.8415, 0.5403, 0.01  , 1.    ]], dtype=float32)
    """
    if not isinstance(length, int):  # a dimension without a number yet, which jax.export has
        return sinusoids_at(jnp.arange(length), d_model, layout)
    if length < 0:
        raise ValueError(f"length {length} is negative")
    sines, cosines = _sines_and_cosines(np.arange(length), d_model, layout)
    return jnp.asarray(_laid_out(np, sines, cosines, layout), jnp.float32)


def sinusoids_at(
    positions: Int[Array, "..."], d_model: int, layout: SinusoidLayout = "paper"
) -> Float[Array, "... D"]:
    """Compute the rows of `sinusoids` at positions that are known only when the program runs.

    A position is 256 i + j, whose sine and cosine follow from those of both parts by the addition
    formulas: so the angle is not rounded to float32, and rows are equal within 2e-7.

    Args:
        positions: Integers from 0 to 65,535; those beyond are taken for the last.
        d_model: D, even.
        layout: As in `sinusoids`.

    Returns:
        [..., D] in float32.

    Raises:
        TypeError: The positions are not integers.
        ValueError: The layout is unknown, or d_model odd.

    >>> sinusoids_at(jnp.array(1), 4).round(4)
    Array([0.8415, 0.5403, 0.01  , 1.    ], dtype=float32)
    """
    check_integer("positions", positions)
    positions = jnp.clip(positions, 0, 256 * 256 - 1)
    (high_sine, high_cosine), (low_sine, low_cosine) = (
        tuple(
            jnp.asarray(table, jnp.float32)[part]
            for table in _sines_and_cosines(step * np.arange(256), d_model, layout)
        )
        for step, part in ((256, positions // 256), (1, positions % 256))
    )
    sines = high_sine * low_cosine + high_cosine * low_sine
    cosines = high_cosine * low_cosine - high_sine * low_sine
    return _laid_out(jnp, sines, cosines, layout)


def _sines_and_cosines(positions, d_model: int, layout: str):
    """Sines and cosines [T, D / 2] of the angles of each position, in float64."""
    if layout not in get_args(SinusoidLayout):
        raise ValueError(f"layout {layout!r} is not one of {', '.join(get_args(SinusoidLayout))}")
    if d_model % 2:
        raise ValueError(f"d_model {d_model} is odd: sines and cosines come in pairs")
    pairs = d_model // 2
    # A table of one pair has the single exponent 0 in T2T too.
    exponents = np.arange(pairs) / (max(pairs - 1, 1) if layout == "t2t" else pairs)
    angles = positions[:, None] * np.exp(-math.log(10_000.0) * exponents)
    return np.sin(angles), np.cos(angles)


def _laid_out(numpy, sines, cosines, layout: str):
    """Arrange [..., D / 2] twice as the columns of a layout, with NumPy or JAX."""
    if layout == "paper":
        return numpy.stack([sines, cosines], axis=-1).reshape(
            *sines.shape[:-1], 2 * sines.shape[-1]
        )
    return numpy.concatenate([sines, cosines], axis=-1)


def learned_positions(table: Float[Array, "max_positions D"], length: Size) -> Float[Array, "T D"]:
    """Take the first `length` rows of a learned table (Table 3, row E).

    Args:
        table: The parameter [max_positions, D].
        length: T.

    Raises:
        ValueError: The table has fewer rows.

    >>> learned_positions(jnp.zeros((8, 2)), 3).shape
    (3, 2)
    """
    if not 0 <= length <= table.shape[0]:
        raise ValueError(
            f"{length} positions asked of a learned table of {table.shape[0]}: "
            "raise max_positions or shorten the sentence"
        )
    return jax.lax.slice_in_dim(table, 0, length)


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Number the tokens of each sentence from 0, where several sentences are packed in one row.

    A sentence begins where the number of the segment changes.

    Raises:
        TypeError: The segments are not integers.
        ValueError: They have other axes than [B, T].

    >>> segment_positions(jnp.array([[1, 1, 2, 2, 2, 0]])).tolist()
    [[0, 1, 0, 1, 2, 0]]
    """
    check_integer("segments", segments)
    check_axes("segments", segments, "B T")
    places = jnp.arange(segments.shape[1])
    begins = jnp.where(segments[:, 1:] != segments[:, :-1], places[None, 1:], 0)
    begins = jnp.pad(begins, ((0, 0), (1, 0)))
    return places[None] - jax.lax.cummax(begins, axis=1)
