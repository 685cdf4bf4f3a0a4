"""The format of a run folder, and folders of format 2 read as such.

What translates format 2 is frozen. docs/formats.md has today's names in one table.
"""

from collections.abc import Mapping
from typing import Any

from transformer_jax.config.renamed import rename_fields
from transformer_jax.training.patience import check_record

__all__ = [
    "FORMAT",
    "check_metadata",
    "name_trees",
    "rename_trees",
    "upgrade_metadata",
    "upgrade_run",
]

FORMAT = 3

_METADATA = {
    "run": "run_identity",
    "order": "data_order_digest",
    "pending": "unlogged_sums",
    "out_of_turn": "unscheduled",
    "of": "averaged_steps",
    "newest": "newest_step",
}
_PATIENCE = {"waited": "evaluations_without_gain"}
_LINES = {"sentences": "sentences_per_line", "tokens": "max_tokens"}
_TREES = {"rest": "optimizer"}
# Of the tree that was called rest.
_LEAVES = {"skipped_in_a_row": "consecutive_skips"}


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {names.get(name, name): value for name, value in tree.items()}


def _check(found: Any) -> None:
    if found not in (2, FORMAT):
        raise ValueError(f"its format is {found!r}, this version reads 2 and {FORMAT}")


def upgrade_run(tree: Any) -> Any:
    """What config.json holds, parsed, of format 2 or 3 as that of format 3; ValueError for others.

    >>> upgrade_run({"format": 2, "config": {"model": {"tied": "all"}}})["config"]
    {'model': {'kernels': 'definition', 'tied_embeddings': 'all'}}
    """
    _check(found := tree.get("format") if isinstance(tree, dict) else None)
    if found != FORMAT:
        tree = {**_renamed(tree, {"lines": "source_lines"}), "format": FORMAT}
        lines = _renamed(tree.get("source_lines"), _LINES)
        tree |= {"source_lines": lines, "config": rename_fields(tree.get("config"))}
    return _with_kernels(tree)


def _with_kernels(tree):
    """A run without this field was computed by the definitions."""
    config = tree.get("config")
    if not isinstance(config, dict) or not isinstance(model := config.get("model"), dict):
        return tree
    return {**tree, "config": {**config, "model": {"kernels": "definition", **model}}}


def upgrade_metadata(meta: Any) -> Any:
    """Metadata of a checkpoint, of format 2 or 3, with the names of format 3.

    "format" stays that of the checkpoint, whose trees `rename_trees` asks for by it.

    >>> upgrade_metadata({"of": [1, 2], "fingerprints": {"rest": {"['skipped_in_a_row']": "0a"}}})
    {'averaged_steps': [1, 2], 'fingerprints': {'optimizer': {"['consecutive_skips']": '0a'}},
     'format': 2}
    """
    if not isinstance(meta, dict):
        return meta
    _check(found := meta.get("format", 2))
    if found == FORMAT:
        return meta
    meta = {**_renamed(meta, _METADATA), "format": 2}
    if "patience" in meta:
        meta["patience"] = _renamed(meta["patience"], _PATIENCE)
    prints = _renamed(meta.get("fingerprints"), _TREES)
    if isinstance(prints, dict) and "optimizer" in prints:
        paths = {f"['{old}']": f"['{new}']" for old, new in _LEAVES.items()}
        prints = {**prints, "optimizer": _renamed(prints["optimizer"], paths)}
    return {**meta, "fingerprints": prints} if "fingerprints" in meta else meta


def check_metadata(meta) -> None:
    """Raise ValueError where metadata are not of the types that are read."""
    if not isinstance(meta, dict) or not {"fingerprints", "scores"} <= set(meta):
        raise ValueError("its metadata are incomplete")
    numbers = (int, float, type(None))
    kinds = {"fingerprints": (dict,), "scores": numbers, "unlogged_sums": numbers}
    for name, kind in kinds.items():
        values = meta.get(name)
        if values is None and name == "unlogged_sums":
            continue  # none yet, or not a checkpoint of training
        if not isinstance(values, dict) or not all(isinstance(v, kind) for v in values.values()):
            raise ValueError(f"its {name} are {values!r:.80}")
    if (patience := meta.get("patience")) is not None:
        check_record(patience)
    others = {
        "data_order_digest": str,
        "run_identity": str,
        "newest_step": int,
        "averaged_steps": list,
    }
    for name, wanted in others.items():
        if name in meta and not isinstance(meta[name], wanted):
            raise ValueError(f"its {name} is {meta[name]!r:.80}")


def name_trees(trees: Mapping[str, Any], found: int) -> dict[str, Any]:
    """The trees of a state by the names that they have in a checkpoint of the format `found`.

    >>> name_trees({"params": 1, "optimizer": {"consecutive_skips": 2}}, 2)
    {'params': 1, 'rest': {'skipped_in_a_row': 2}}
    """
    return dict(trees) if found == FORMAT else _rename(trees, _inverse(_TREES), _inverse(_LEAVES))


def rename_trees(trees: Mapping[str, Any], found: int) -> dict[str, Any]:
    """The inverse of `name_trees`.

    >>> rename_trees({"params": 1, "rest": {"skipped_in_a_row": 2}}, 2)
    {'params': 1, 'optimizer': {'consecutive_skips': 2}}
    """
    return dict(trees) if found == FORMAT else _rename(trees, _TREES, _LEAVES)


def _rename(trees: Mapping[str, Any], names: Mapping[str, str], leaves: Mapping[str, str]):
    return {
        names.get(name, name): _renamed(tree, leaves) if name in names else tree
        for name, tree in trees.items()
    }


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}
