"""Which array of a foreign model is which parameter of ours; one list serves in and out."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.errors import UserError

__all__ = ["Pair", "arrays_from_params", "ids_in_our_order", "params_from_arrays"]

# Our ids of padding, end of sentence, unknown and start; see `data.vocabulary`.
_FIRST = ("pad", "eos", "unk", "bos")


class Pair(NamedTuple):
    """A parameter and its counterpart.

    Attributes:
        ours: Path in the tree of parameters.
        theirs: Name of the array.
        is_transposed: Whether it is stored as [out, in].
        is_vocabulary: Whether its first axis is that of the vocabulary, whose ids differ.
    """

    ours: tuple[str, ...]
    theirs: str
    is_transposed: bool = False
    is_vocabulary: bool = False


def ids_in_our_order(size: int, special: Mapping[str, int]) -> list[int]:
    """List the foreign id of each id of ours.

    Ours are padding, end of sentence, unknown and start, and then all other foreign ids in their
    order.

    Args:
        size: Ids of the foreign vocabulary.
        special: Foreign ids of "pad", "eos", "unk" and "bos"; one that starts a target may be that
            of padding, too, which then has two rows of ours.

    >>> ids_in_our_order(6, {"eos": 0, "unk": 1, "pad": 5, "bos": 5})
    [5, 0, 1, 5, 2, 3, 4]
    """
    first = [special[name] for name in _FIRST]
    if wrong := [row for row in first if not 0 <= row < size]:
        raise UserError(f"id {wrong[0]} is outside the vocabulary of {size}")
    return first + [row for row in range(size) if row not in first]


def params_from_arrays(
    pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray], ids: Iterable[int], source: str
) -> dict[str, Any]:
    """Build the tree of parameters, in float32.

    Args:
        pairs: What belongs together.
        arrays: The foreign arrays by name.
        ids: As `ids_in_our_order`.
        source: Name of the file, for messages.

    Raises:
        UserError: An array is missing, is not of finite floats or has not a row for each id; or
            one is left that belongs to no parameter.
    """
    ids, left = list(ids), set(arrays)
    rows = max(ids) + 1
    params: dict[str, Any] = {}
    for pair in pairs:
        if pair.theirs not in arrays:
            raise UserError(f"{source} has no array {pair.theirs!r}, which this model needs")
        left.discard(pair.theirs)
        array = _floats(arrays[pair.theirs], f"{source}: {pair.theirs}")
        if pair.is_vocabulary and array.shape[:1] != (rows,):
            raise UserError(
                f"{source}: {pair.theirs} has shape {array.shape}, not {rows} rows, which is the "
                "size of the vocabulary: the files do not belong together"
            )
        array = array.T if pair.is_transposed else array
        tree = params
        for key in pair.ours[:-1]:
            tree = tree.setdefault(key, {})
        tree[pair.ours[-1]] = array[ids] if pair.is_vocabulary else np.ascontiguousarray(array)
    if left:
        raise UserError(
            f"{source} has {len(left)} arrays that no parameter of this model holds, e.g. "
            f"{min(left)!r}: it is a model of another kind"
        )
    return params


def _floats(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array of numbers as float32; UserError for what float32 does not hold."""
    if array.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise UserError(
            f"{name} is of dtype {array.dtype}, and only float32, float16, bfloat16 and float64 "
            "are read: convert the model first"
        )
    with np.errstate(over="ignore"):
        found = np.asarray(array, np.float32)
    if not np.isfinite(found).all():
        raise UserError(f"{name} holds numbers that are not finite")
    return found


def arrays_from_params(
    pairs: Iterable[Pair], params: Mapping[str, Any], ids: Iterable[int]
) -> dict[str, np.ndarray]:
    """Undo `params_from_arrays`.

    Args:
        pairs: What belongs together.
        params: The tree of parameters.
        ids: As `ids_in_our_order`; where two rows of ours are one of theirs, the first is taken.
    """
    ids = list(ids)
    first: dict[int, int] = {}
    for ours, theirs in enumerate(ids):
        first.setdefault(theirs, ours)
    order = [first[row] for row in sorted(first)]
    found = {}
    for pair in pairs:
        tree: Any = params
        for key in pair.ours:
            tree = tree[key]
        array = np.asarray(tree, np.float32)
        array = array[order] if pair.is_vocabulary else array
        found[pair.theirs] = np.ascontiguousarray(array.T if pair.is_transposed else array)
    return found
