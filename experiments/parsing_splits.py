"""Which trees of a treebank are scored, and which choose a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.files import write_atomically
from transformer_jax.parsing import Tree, read_trees, write_brackets

__all__ = ["evenly", "split_validation", "write_trees"]

# Of val: sentences to score, and others by which the best checkpoint is chosen.
SCORED, CHOSEN_BY = 500, 200


def evenly(trees: Sequence[Tree], count: int) -> list[int]:
    """List the indices of `count` trees, evenly spaced.

    >>> evenly([Tree("TOP")] * 10, 3)
    [0, 3, 6]
    """
    count = min(count, len(trees))
    return [number * len(trees) // count for number in range(count)]


def write_trees(trees: Sequence[Tree], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{write_brackets(tree)}\n" for tree in trees))
    return path


def split_validation(bank: Path, output: Path) -> list[Tree]:
    """The trees to score; others, which choose the best checkpoint, are written."""
    trees = list(read_trees(bank / "val.trees"))
    scored = set(evenly(trees, SCORED))
    others = [tree for place, tree in enumerate(trees) if place not in scored]
    write_trees([others[place] for place in evenly(others, CHOSEN_BY)], output / "chosen-by.trees")
    return [trees[place] for place in sorted(scored)]
