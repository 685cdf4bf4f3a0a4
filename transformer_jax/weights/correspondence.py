"""Which array of a foreign model is which parameter of ours; one list serves in and out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.models.embedding import TABLES

__all__ = [
    "NEVER",
    "Ids",
    "Names",
    "Pair",
    "arrays_from_params",
    "check_expressible",
    "matrix_of",
    "pairs_of",
    "params_from_arrays",
    "untie_tables",
]

# Logit of a row that the foreign model has not: no search takes it, and it has no part in the sum
# of probabilities.
NEVER = -1e9
_PROJECTIONS = ("query", "key", "value", "output")


class Pair(NamedTuple):
    """A parameter and its counterpart.

    Attributes:
        ours: Path in the tree of parameters.
        theirs: Name of the array.
        is_transposed: Whether it is stored as [out, in].
        vocabulary: The side whose ids its first axis has, which are numbered otherwise there.
    """

    ours: tuple[str, ...]
    theirs: str
    is_transposed: bool = False
    vocabulary: Literal["source", "target"] | None = None


class Names(NamedTuple):
    """How a format names the arrays of a Transformer.

    Attributes:
        layer: What the names of a layer's arrays begin with, of `side` and `number`.
        modules: Module of ours -> what follows, where {} is the kind of array.
        top: Name of the norm after the last layer, of `side` and the kind of array.
        linear: Kinds of the arrays of a matrix product, as ours are called -> theirs.
        norm: The same of a norm.
        tables: Names of the tables of source, target and output.
        output_bias: Name of what is added to the logits.
        positions: Name of a learned table of positions, where the format has one for both sides.
        first: Number of the first layer.
        is_transposed: Whether matrices are stored as [out, in].
    """

    layer: str
    modules: Mapping[str, str]
    top: str
    linear: Mapping[str, str]
    norm: Mapping[str, str]
    tables: Mapping[str, str]
    output_bias: str
    positions: str | None = None
    first: int = 0
    is_transposed: bool = True


class Ids(NamedTuple):
    """The foreign id of each id of ours, of each side; None where they have no such row."""

    source: Sequence[int | None]
    target: Sequence[int | None]


def check_expressible(config: ModelConfig, format_name: str, **allowed: Sequence[Any]) -> None:
    """Raise UserError for an architecture that no other toolkit's Transformer has.

    Args:
        config: The model.
        format_name: What messages call the format.
        allowed: Fields of the configuration -> the values that this format has, besides.
    """
    head = config.d_model // config.num_heads
    of_all: dict[str, Sequence[Any]] = {
        "architecture": ["transformer"], "attention_score": ["scaled"],
        "normalization": ["layer"], "residual_connections": [True], "attention_radius": [None],
        "cross_attention_radius": [None], "key_size": [head], "value_size": [head],
    }  # fmt: skip
    for name, values in (of_all | allowed).items():
        if (found := getattr(config, name)) not in values:
            shown = {"key_size": "d_k", "value_size": "d_v"}.get(name, name)
            raise UserError(
                f"{shown} {found!r} cannot be expressed in {format_name}, only "
                f"{' or '.join(map(repr, values))}: nothing was written"
            )


def matrix_of(arrays: Mapping[str, np.ndarray], name: str, source: Any) -> np.ndarray:
    """Return an array of two axes; UserError where there is none of the name.

    Args:
        arrays: The foreign arrays.
        name: Name of one.
        source: The file, for messages.
    """
    array = arrays.get(name)
    if array is None or array.ndim != 2:
        raise UserError(f"{source} has no array {name!r} of two axes")
    return array


def pairs_of(config: ModelConfig, names: Names) -> list[Pair]:
    """List the arrays of a Transformer of this configuration.

    Args:
        config: The model.
        names: Those of the format.
    """
    ours = TABLES[config.tied_embeddings]
    pairs = [
        Pair((ours[use],), names.tables[use], vocabulary="source" if use == "source" else "target")
        for use in first_uses(ours)
    ]
    if config.output_bias:
        pairs.append(Pair(("output_bias",), names.output_bias, vocabulary="target"))
    if config.position_encoding == "learned" and names.positions is not None:
        pairs.append(Pair(("position_table",), names.positions))

    def add(path: tuple[str, ...], module: str, kinds: Mapping[str, str], ending: str = "") -> None:
        for mine, theirs in kinds.items():
            is_transposed = names.is_transposed and mine == "kernel"
            pairs.append(Pair((*path, mine + ending), module.format(theirs), is_transposed))

    for side, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth)):
        blocks = ["self_attention", "cross_attention"][: 1 + (side == "decoder")]
        for number in range(depth):
            layer = f"{side}_{number}"
            start = names.layer.format(side=side, number=number + names.first)
            for block in blocks:
                for part in _PROJECTIONS:
                    module = start + names.modules[f"{block}/{part}"]
                    add((layer, block, part), module, names.linear)
            for part in ("in", "out"):
                module = start + names.modules[f"feed_forward/{part}"]
                add((layer, "feed_forward"), module, names.linear, f"_{part}")
            for block in (*blocks, "feed_forward"):
                add((layer, f"{block}_norm"), start + names.modules[f"{block}_norm"], names.norm)
        if config.norm_placement == "pre":
            add((f"{side}_norm",), names.top.format("{}", side=side), names.norm)
    return pairs


def first_uses(tables: Mapping[str, str]) -> list[str]:
    """List the first use of each table.

    >>> first_uses({"source": "a", "target": "b", "output": "b"})
    ['source', 'target']
    """
    return [use for n, use in enumerate(tables) if tables[use] not in [*tables.values()][:n]]


def untie_tables(
    arrays: Mapping[str, np.ndarray], tables: Mapping[str, str], joint: bool, source: str
) -> tuple[dict[str, np.ndarray], Literal["all", "decoder", "none"]]:
    """Leave out tables that are copies of others.

    Args:
        arrays: The foreign arrays; a table that is missing is the one before.
        tables: As in `Names`.
        joint: Whether both sides have the same ids.
        source: Name of the file, for messages.

    Returns:
        The arrays, and `ModelConfig.tied_embeddings`.

    Raises:
        UserError: There is no table, or one of another rank.
    """
    left = dict(arrays)
    found: list[np.ndarray] = []
    for use in ("source", "target", "output"):
        if found:
            left.setdefault(tables[use], found[-1])
        found.append(matrix_of(left, tables[use], source))
        del left[tables[use]]
    of_source, of_target, of_output = found
    tied: Literal["all", "decoder", "none"] = "none"
    if _are_equal(of_target, of_output):
        tied = "all" if joint and _are_equal(of_source, of_target) else "decoder"
    for use in first_uses(TABLES[tied]):
        left[tables[use]] = found[("source", "target", "output").index(use)]
    return left, tied


def _are_equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first is second or (first.shape == second.shape and bool(np.all(first == second)))


def params_from_arrays(
    pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray], ids: Ids, source: str
) -> dict[str, Any]:
    """Build the tree of parameters, in float32.

    Rows that the foreign model has not are zeros, and never predicted.

    Args:
        pairs: What belongs together.
        arrays: The foreign arrays by name.
        ids: The foreign id of each id of ours.
        source: Name of the file, for messages.

    Raises:
        UserError: An array is missing, is not of finite floats or has not a row for each id; or
            one is left that belongs to no parameter.
    """
    left = set(arrays)
    params: dict[str, Any] = {}
    for pair in pairs:
        if pair.theirs not in arrays:
            raise UserError(f"{source} has no array {pair.theirs!r}, which this model needs")
        left.discard(pair.theirs)
        array = _floats(arrays[pair.theirs], f"{source}: {pair.theirs}")
        if pair.vocabulary is not None:
            array = _rows(array, getattr(ids, pair.vocabulary), f"{source}: {pair.theirs}")
        tree = params
        for key in pair.ours[:-1]:
            tree = tree.setdefault(key, {})
        tree[pair.ours[-1]] = np.ascontiguousarray(array.T if pair.is_transposed else array)
    if left:
        raise UserError(
            f"{source} has {len(left)} arrays that no parameter of this model holds, e.g. "
            f"{min(left)!r}: it is a model of another kind"
        )
    return params


def _rows(array: np.ndarray, ids: Sequence[int | None], name: str) -> np.ndarray:
    """Take a row for each id of ours; UserError where there are more or fewer."""
    rows = 1 + max(number for number in ids if number is not None)
    if array.shape[:1] != (rows,):
        raise UserError(
            f"{name} has shape {array.shape}, not {rows} rows, which is the size of the "
            "vocabulary: the files do not belong together"
        )
    found = array[[number or 0 for number in ids]]
    missing = [ours for ours, number in enumerate(ids) if number is None]
    found[missing] = NEVER if array.ndim == 1 else 0
    return found


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


def arrays_from_params(pairs: Iterable[Pair], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Undo `params_from_arrays`, where both number tokens alike.

    Args:
        pairs: What belongs together.
        params: The tree of parameters.

    Returns:
        The foreign arrays by name, in float32.
    """
    found = {}
    for pair in pairs:
        tree: Any = params
        for key in pair.ours:
            tree = tree[key]
        array = np.asarray(tree, np.float32)
        found[pair.theirs] = np.ascontiguousarray(array.T if pair.is_transposed else array)
    return found
