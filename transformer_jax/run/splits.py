"""The splits of the dataset that a run was trained on."""

from pathlib import Path
from typing import Any

from transformer_jax.data.manifest import Manifest
from transformer_jax.data.preparation import load_splits
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run

__all__ = ["dataset_splits"]


def dataset_splits(run_dir: Path) -> dict[str, Any]:
    """Load the splits of the dataset that a run was trained on.

    Returns:
        Split -> its text, as the run's task reads it.

    Raises:
        UserError: The run was trained on files, or the dataset is not the same any more.
    """
    run = Run.open(run_dir)
    data = run.config.data
    if data.dataset is None:
        raise UserError(
            f"{run_dir}/config.json names no dataset, so it has no splits: give --test SOURCE "
            "REFERENCE, or --trees GOLD"
        )
    splits = {name: run.task.split_text(split) for name, split in load_splits(data).items()}
    manifest = Manifest.read(run.prepared)
    if manifest and manifest.train != splits["train"].identity:
        raise UserError(
            f"dataset {data.dataset} has changed since {run_dir} was trained, so its splits "
            "may hold training text: give --test SOURCE REFERENCE, or train again"
        )
    return splits
