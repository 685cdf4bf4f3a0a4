"""Descriptions of a run folder, and of how two differ, as text."""

import dataclasses
import hashlib
import math
from pathlib import Path

import jax

from transformer_jax.config import OptimizerConfig, RunConfig
from transformer_jax.devices.layout import single_device_template
from transformer_jax.devices.settings import usual_settings
from transformer_jax.run.changes import changed_settings
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.folder import Run
from transformer_jax.run.items import prediction_items, state_to_items
from transformer_jax.run.names import AVERAGED, CHECKPOINTS, step_folder
from transformer_jax.training.fingerprint import leaf_paths
from transformer_jax.training.patience import has_ended
from transformer_jax.training.state import TrainState

__all__ = ["compare_runs", "describe_run"]


@usual_settings()
def describe_run(folder: Path) -> str:
    """Describe configuration, parameters and checkpoints of a run, reading each checkpoint."""
    run = Run.open(folder)
    lines = [f"{name} = {value!r}" for name, value in _fields(run.config).items()]
    if (origin := run.origin) is None:
        lines += [f"corpus fingerprint = {run.corpus_fingerprint}", ""]
    else:
        lines += [f"imported from {origin.name} ({origin.format}), SHA-256 {origin.sha256}", ""]
    for step, settings in changed_settings(run.config.optimizer, run.changes):
        named = ", ".join(f"{name} {value!r}" for name, value in settings.items())
        lines.append(f"after update {step} the optimizer's settings changed: {named}")
    lines += [*_table(_parameters(run)), "", *_checkpoint_health(run)]
    return "\n".join(lines)


@usual_settings()
def compare_runs(folder: Path, other: Path) -> str:
    """List the fields and parameters by which two runs differ, one per line."""
    runs = [Run.open(path) for path in (folder, other)]
    sides = []
    for run in runs:
        parameters = {f"parameter {name}": shape for name, shape in _parameters(run)}
        written = b"".join(each.to_bytes() for each in run.vocabularies.distinct)
        vocabulary = hashlib.sha256(written).hexdigest()[:12]
        texts = {"corpus fingerprint": run.corpus_fingerprint, "vocabulary": vocabulary}
        sides.append(_fields(run.config) | texts | parameters)
    left, right = sides
    lines = [
        f"{name}: {left.get(name, 'none')!r} in {folder}, {right.get(name, 'none')!r} in {other}"
        for name in dict.fromkeys([*left, *right])
        if left.get(name, "none") != right.get(name, "none")
    ]
    return "\n".join(lines) or f"{folder} and {other} have the same fields, text and shapes"


def _fields(config: RunConfig) -> dict[str, object]:
    return {
        f"{part}.{name}": value
        for part, fields in dataclasses.asdict(config).items()
        for name, value in fields.items()
    }


def _parameters(run: Run) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every parameter array."""
    leaves = jax.tree_util.tree_leaves_with_path(run.step_functions().shapes().params)
    return [("/".join(key.key for key in path), leaf.shape) for path, leaf in leaves]


def _table(parameters: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    rows = [
        (name, " x ".join(map(str, shape)), f"{math.prod(shape):,}") for name, shape in parameters
    ]
    total = sum(math.prod(shape) for _, shape in parameters)
    rows = [("parameter", "shape", "count"), *rows, ("all", "", f"{total:,}")]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]


def _checkpoint_health(run: Run) -> list[str]:
    """A line for each checkpoint."""
    lines = []
    # What the optimizer keeps may have another form since its settings changed.
    templates: dict[OptimizerConfig, TrainState] = {}
    for name, items_of in ((CHECKPOINTS, state_to_items), (AVERAGED, prediction_items)):
        if not (run.checkpoint_root / name).is_dir():
            continue
        try:
            checkpoints = Checkpoints(run.checkpoint_root / name, read_only=True)
        except DamagedCheckpoint as error:
            lines.append(f"{name}: DAMAGED: {error}")
            continue
        for step in checkpoints.steps():
            then = run.at(step - 1)
            if then.config.optimizer not in templates:
                shapes = then.step_functions().shapes()
                templates[then.config.optimizer] = single_device_template(shapes)
            notes, read = [], items_of(templates[then.config.optimizer])
            try:
                saved = checkpoints.metadata(step)["fingerprints"].get("optimizer", ())
                if "optimizer" in read and {*saved} != {*leaf_paths(read["optimizer"])}:
                    other = "but the state of an optimizer that is not Adam was not read"
                    notes = [other if saved else "parameters alone"]
                    del read["optimizer"]
                _, meta = checkpoints.restore(step, read)
            except DamagedCheckpoint as error:
                if not step_folder(run.checkpoint_root / name, step).is_dir():
                    continue  # a job that trains has replaced it meanwhile
                lines.append(f"{name}/{step}: DAMAGED: {error}")
                continue
            scores = [
                f"{key} {value:.4g}" for key, value in meta["scores"].items() if value is not None
            ]
            if steps := meta.get("averaged_steps"):
                notes.append(f"mean of {', '.join(map(str, steps))}")
            notes += ["unscheduled"] if meta.get("unscheduled") else []
            if (patience := meta.get("patience")) and has_ended(patience):
                count = patience["evaluations_without_gain"]
                notes.append(f"ended after {count} evaluations without a gain")
            lines.append(f"{name}/{step}: {', '.join(['intact', *notes, *scores])}")
    return lines or ["no checkpoint yet"]
