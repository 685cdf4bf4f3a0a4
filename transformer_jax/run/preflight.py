"""What a new run will need after hours of work, tried before its first step."""

import shutil
import time
from pathlib import Path

import jax

from transformer_jax.devices.memory import format_bytes
from transformer_jax.devices.processes import run_on_first
from transformer_jax.evaluation.validation import Validation
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.names import CHECKPOINTS
from transformer_jax.training.state import TrainState

__all__ = ["check_before_training"]

PROBE = ".transformer_jax-probe"  # no name that anybody else would give


def check_before_training(run: Run, state: TrainState, validation: Validation | None) -> str:
    """Save and read back a small checkpoint, look for room on the disk, and score one batch.

    Args:
        run: The run.
        state: Its initial state.
        validation: Its validation text, if it has one.

    Returns:
        A line that says what was tried.

    Raises:
        UserError: Something would have ended the run later.
    """
    start = time.perf_counter()
    proved = [_save_and_restore(run, state)]
    if isinstance(run.checkpoint_root, Path):
        proved.append(_find_room(run, run.checkpoint_root, state))
    if validation is not None:
        proved.append(validation.try_out(state.evaluation_variables))
    seconds = time.perf_counter() - start
    return f"tried before the first step, in {seconds:.1f} s: {'; '.join(proved)}"


def _save_and_restore(run: Run, state: TrainState) -> str:
    """A checkpoint of one number of the state, through the code that saves all of it."""
    folder = run.checkpoint_root / PROBE

    def remove():
        if folder.exists():
            shutil.rmtree(folder) if isinstance(folder, Path) else folder.rmtree()

    run_on_first(remove)  # what a killed job left
    tree = {"step": state.step}
    wanted = {"step": jax.ShapeDtypeStruct((), state.step.dtype, sharding=state.step.sharding)}
    probe = Checkpoints(folder / CHECKPOINTS)
    try:
        probe.save(1, {"state": tree}, {})
        probe.wait()
        probe.restore(1, {"state": wanted})
    except DamagedCheckpoint as error:
        raise RunError(
            f"what is saved in {run.checkpoint_root} cannot be read back ({error}): take another "
            "folder"
        ) from None
    finally:
        probe.close()
        run_on_first(remove)
    return "a checkpoint is saved and read back"


def _find_room(run: Run, folder: Path, state: TrainState) -> str:
    """Room for the checkpoints that are kept and the one being written."""
    count = run.config.train.keep_last + 1
    needed = count * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"{folder} has {format_bytes(free)} free, but {count} checkpoints need "
            f"{format_bytes(needed)}: make room, lower keep_last, or give --checkpoint-dir"
        )
    return f"{count} checkpoints need {format_bytes(needed)} of {format_bytes(free)} free"
