"""The mean of a run's checkpoints, which it then translates with (section 6.1)."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.devices.layout import single_device_template
from transformer_jax.devices.settings import usual_settings
from transformer_jax.files import folder_lock
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.folder import Run, RunError, check_store
from transformer_jax.run.items import prediction_items
from transformer_jax.run.names import AVERAGED
from transformer_jax.run.variables import restore_evaluated

__all__ = ["average", "average_checkpoints", "mean_tree"]

log = logging.getLogger(__name__)


@usual_settings()
def average(folder: Path, *, last: int = 5, steps: Sequence[int] = ()) -> list[int]:
    """Write a run's averaged/ again, from its newest `last` checkpoints or from those of `steps`.

    Args:
        folder: The run folder.
        last: Number of the newest checkpoints, unscheduled ones left out.
        steps: Steps of the checkpoints to average instead.

    Returns:
        The steps averaged.

    Raises:
        RunError: There are no such checkpoints, or none of them is intact.
    """
    if last < 1:
        raise RunError(f"last {last} must be positive")
    run = Run.open(folder)
    check_store(run.checkpoint_root)
    with folder_lock(folder, f"a job is training in {folder}: average when it has ended"):
        checkpoints = run.checkpoints(read_only=True)
        found = checkpoints.steps()
        if missing := [step for step in steps if step not in found]:
            raise RunError(
                f"{folder} has no checkpoint {', '.join(map(str, missing))}; it has "
                f"{', '.join(map(str, found)) or 'none'}"
            )
        chosen = steps or checkpoints.scheduled_steps()[-last:] or found[-1:]
        if not chosen:
            raise RunError(f"{folder} has no checkpoint yet")
        return average_checkpoints(run, checkpoints, chosen)


def average_checkpoints(
    run: Run,
    checkpoints: Checkpoints,
    steps: Sequence[int],
    make_template: Callable[[Any], Any] = single_device_template,
) -> list[int]:
    """Write averaged/ from the checkpoints of these steps (section 6.1).

    Damaged ones are left out. Collections are those of the newest checkpoint, as means of running
    statistics would belong to no parameters. Nothing is written where averaged/ holds this average
    already.

    Args:
        run: The run.
        checkpoints: Its checkpoints.
        steps: Steps to average.
        make_template: As in `load_variables`.

    Returns:
        The steps averaged.
    """
    template = make_template(prediction_items(run.step_functions().shapes()))
    averaged = Checkpoints(run.checkpoint_root / AVERAGED)
    steps, taken = sorted(set(steps)), []
    items: dict[str, Any] = {}

    def intact():
        nonlocal items
        for step in steps:
            try:
                items = restore_evaluated(checkpoints, step, template)
            except DamagedCheckpoint as error:
                log.warning("%s; averaged without it", error)
                continue
            taken.append(step)
            yield items["params"]

    newest = checkpoints.steps()[-1]
    if not _holds_average(averaged, template, steps, newest):
        try:
            mean = mean_tree(intact())
        except ValueError as error:
            raise RunError(f"{run.folder} has no intact checkpoint: {error}") from None
        # The old one goes when the new one is known.
        averaged.clear()
        items["params"] = mean
        averaged.save(taken[-1], items, {"averaged_steps": taken, "newest_step": newest})
    averaged.close()
    return taken or steps


def _holds_average(averaged, template, steps, newest):
    try:
        _, meta = averaged.restore(averaged.steps()[-1], template)
    except (IndexError, DamagedCheckpoint):
        return False
    return (meta.get("averaged_steps"), meta.get("newest_step")) == (steps, newest)


def mean_tree(trees: Iterable[Any]) -> Any:
    """Compute the leaf-wise mean of several trees.

    They may be produced one at a time; two are in memory at once.

    Raises:
        ValueError: There is no tree.

    >>> mean_tree([{"w": jnp.zeros(1)}, {"w": jnp.full(1, 4.0)}])
    {'w': Array([2.], dtype=float32)}
    """
    total, count = None, 0
    for tree in trees:
        count += 1
        total = tree if total is None else jax.tree.map(jnp.add, total, tree)
    if not count:
        raise ValueError("no parameters to average")
    return jax.tree.map(lambda leaf: leaf / count, total)
