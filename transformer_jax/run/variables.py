"""Parameters and collections to predict with, from a run's checkpoints."""

import logging
from collections.abc import Callable
from typing import Any

import jax

from transformer_jax.devices.layout import single_device_template
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.items import prediction_items, variables_of
from transformer_jax.run.names import AVERAGED, CHECKPOINTS
from transformer_jax.run.single_file import read_single_file

__all__ = ["load_variables", "restore_evaluated"]

log = logging.getLogger(__name__)


def load_variables(
    run: Run,
    checkpoint: str = "averaged",
    make_template: Callable[[Any], Any] = single_device_template,
) -> tuple[dict[str, Any], str]:
    """Load the variables to predict with from a run's checkpoints.

    Args:
        run: The run.
        checkpoint: "averaged", "best", "last" or a step. "averaged" falls back to the newest intact
            checkpoint while there is no intact average as new as it.
        make_template: Gives the shapes of {"params": ...}, and of "collections" where the model has
            some, the shardings that they are restored to.

    Returns:
        Parameters and collections as Flax's variables, and the name of the checkpoint.

    Raises:
        RunError: There is no such checkpoint, or no intact one.
    """
    if run.folder.is_file():
        return _of_file(run, checkpoint, make_template)
    template = make_template(prediction_items(run.step_functions().shapes()))
    if not (run.checkpoint_root / CHECKPOINTS).is_dir():
        raise RunError(f"{run.folder} has no checkpoint yet")
    checkpoints = run.checkpoints(read_only=True)
    steps = checkpoints.steps()
    if checkpoint == "averaged" and (found := _averaged(run, template, steps)) is not None:
        return found
    if not steps:
        raise RunError(f"{run.folder} has no checkpoint yet")
    if checkpoint in ("averaged", "last"):
        wanted = steps[::-1]
    elif checkpoint == "best":
        best = checkpoints.best_step()
        if best is None:
            raise RunError(f"{run.folder} has no evaluated checkpoint to call the best")
        wanted = [best]
    elif checkpoint.isdecimal() and int(checkpoint) in steps:
        wanted = [int(checkpoint)]
    else:
        raise RunError(
            f"{run.folder} has no checkpoint {checkpoint!r}; it has averaged, best, last, "
            f"{', '.join(map(str, steps))}"
        )
    step, items = _newest_intact(run, checkpoints, wanted, template)
    return variables_of(items), f"step {step}"


def _of_file(run, checkpoint, make_template):
    """A file holds one checkpoint, which is any that is not asked for by its number."""
    if checkpoint not in ("averaged", "last", "best"):
        raise RunError(f"{run.folder} holds one checkpoint: leave --checkpoint {checkpoint} out")
    variables, name = read_single_file(run.folder)
    wanted = variables_of(make_template(prediction_items(run.step_functions().shapes())))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), variables)
    if shapes != jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), wanted):
        raise RunError(f"{run.folder} is damaged: its arrays are not those of its configuration")
    place = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    return jax.device_put(variables, place), name


def _averaged(run, template, steps):
    if not (run.checkpoint_root / AVERAGED).is_dir():
        return None
    averaged = Checkpoints(run.checkpoint_root / AVERAGED, read_only=True)
    for step in averaged.steps()[-1:]:
        try:
            items, meta = averaged.restore(step, template)
            if steps and meta.get("newest_step", step) < steps[-1]:
                log.warning("training continued after the average at step %d was taken", step)
                return None
            return variables_of(items), f"averaged at step {step}"
        except DamagedCheckpoint as error:
            log.warning("%s; using the newest checkpoint instead", error)
    return None


def _newest_intact(run, checkpoints, steps, template):
    for step in steps:
        try:
            return step, restore_evaluated(checkpoints, step, template)
        except DamagedCheckpoint as error:
            log.warning("%s; trying an older one", error)
    raise RunError(f"{run.folder} has no intact checkpoint")


def restore_evaluated(checkpoints, step, template):
    """Restore what a checkpoint predicts with.

    Args:
        checkpoints: The checkpoints.
        step: Number of one of them.
        template: Shapes and shardings of its trees.

    Returns:
        The trees by name, with the moving average for parameters if there is one.
    """
    wanted = dict(template)
    if has_ema := "ema" in checkpoints.metadata(step)["fingerprints"]:
        wanted["ema"] = wanted.pop("params")
    items, _ = checkpoints.restore(step, wanted)
    if has_ema:
        items["params"] = items.pop("ema")
    return items
