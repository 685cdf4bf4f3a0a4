"""Names of the folders in a run folder; `training.metrics` names the files of records."""

from typing import Any

__all__ = [
    "AVERAGED",
    "CHECKPOINTS",
    "CONFIG",
    "DAMAGED",
    "DELETED",
    "PREPARED",
    "PROFILE",
    "is_step",
    "step_folder",
]

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
AVERAGED = "averaged"
DAMAGED = "damaged"
# Within CHECKPOINTS: what is being deleted.
DELETED = "deleted"
# Text that was prepared for the run: its training part and its validation part.
PREPARED = "corpus"
PROFILE = "profile"


def step_folder(folder: Any, step: int) -> Any:
    """The checkpoint of a step in a folder of checkpoints, a local path or one of etils."""
    return folder / str(step)


def is_step(folder: Any) -> bool:
    """Whether a folder is named as that of a step."""
    return folder.name.isdecimal()
