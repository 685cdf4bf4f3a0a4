"""The splits of the dataset that a run was trained on."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformer_jax.data.manifest import Manifest
from transformer_jax.data.preparation import load_splits
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run

if TYPE_CHECKING:  # tensorflow-datasets only where a dataset is asked for
    from transformer_jax.data.datasets import DatasetSplit

__all__ = ["dataset_splits"]


def dataset_splits(run_dir: Path) -> "dict[str, DatasetSplit]":
    """Load the splits of the dataset that a run was trained on.

    Returns:
        Split -> its text.

    Raises:
        UserError: The run was trained on files, or the dataset is not the same any more.
    """
    run = Run.open(run_dir)
    data = run.config.data
    if data.dataset is None:
        raise UserError(
            f"{run_dir}/config.json names no dataset, so it has no splits: give --test SOURCE "
            "REFERENCE"
        )
    splits = load_splits(data)
    manifest = Manifest.read(run.prepared)
    if manifest and manifest.train != splits["train"].identity:
        raise UserError(
            f"dataset {data.dataset} has changed since {run_dir} was trained, so its splits "
            "may hold training text: give --test SOURCE REFERENCE, or train again"
        )
    return splits
