"""A run folder opened for training, new or resumed, and the state that training starts with."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from transformer_jax.config.languages import check_direction, is_direction
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.manifest import Manifest
from transformer_jax.data.preparation import TRAIN, prepare_cached
from transformer_jax.data.tree_files import has_trees
from transformer_jax.devices.layout import Layout
from transformer_jax.functional.keys import seed_key
from transformer_jax.run.changes import OptimizerChange
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.create import (
    check_frozen,
    check_patience,
    create_run,
    with_corpus_fields,
    with_vocabulary_sizes,
)
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.items import state_from_items, state_to_items
from transformer_jax.run.names import AVERAGED, CHECKPOINTS, DAMAGED, is_step, step_folder
from transformer_jax.run.variables import load_variables
from transformer_jax.training.optimizer import MakeOptimizer
from transformer_jax.training.patience import Patience
from transformer_jax.training.state import TrainState

__all__ = ["open_or_create_run", "restore_or_init", "template_of", "with_kernels"]

log = logging.getLogger(__name__)


def open_or_create_run(
    config: RunConfig,
    folder: Path,
    init_from: Path | None,
    fit_memory: bool,
    layout: Layout,
    optimizer: MakeOptimizer,
    change_optimizer: bool = False,
) -> Run:
    """Open the run in `folder` for training, or create it.

    Args:
        config: What to train.
        folder: The run folder.
        init_from: Another run to start a new one from.
        fit_memory: Whether to divide each update of a new run into batches that the device holds.
        layout: The devices.
        optimizer: Makes the optimizer.
        change_optimizer: Whether a run that exists goes on with other settings of the optimizer.

    Raises:
        UserError: The run cannot be created or resumed with this configuration; nothing is written.
    """
    config = replace(config, data=_absolute(config.data))
    if (store := config.train.checkpoint_dir) is not None and "://" not in store:
        train = replace(config.train, checkpoint_dir=str(Path(store).absolute()))
        config = replace(config, train=train)
    run = Run.open(folder) if Run.exists(folder) else None
    if run is not None and run.origin is not None:
        raise RunError(
            f"{folder} holds a model that was imported from {run.origin.name}, and no training to "
            f"resume: train it further in another run folder, with --init-from {folder}"
        )
    if run is None and change_optimizer:
        raise RunError(f"{folder} holds no run whose optimizer could change: name that of a run")
    if config.data.direction is None:
        direction = config.data.known_direction
        if direction is None and run is not None:
            direction = run.config.data.direction
        config = replace(config, data=replace(config.data, direction=direction))
    # In this order: whether the text differs is known when all of it has been read.
    if run is None or (_never_saved(run, config) and _differs(run, config)):
        return create_run(config, folder, init_from, fit_memory, layout, optimizer)
    if init_from is not None:
        log.info("%s exists and resumes from its own checkpoints, not %s", folder, init_from)
    return _resume_run(config, run, fit_memory, optimizer, change_optimizer)


def _absolute(data: DataConfig) -> DataConfig:
    """Make the paths of a configuration absolute, so that they hold from any working folder."""

    def path(given: str) -> str:
        return str(Path(given).absolute())

    def pair(given: tuple[str, str]) -> tuple[str, str]:
        return path(given[0]), path(given[1])

    return replace(
        data,
        train=data.train and pair(data.train),
        validation=data.validation and pair(data.validation),
        mixed_text=data.mixed_text and pair(data.mixed_text),
        treebank=data.treebank and pair(data.treebank),
        mixed_treebank=data.mixed_treebank and path(data.mixed_treebank),
        corpus=data.corpus and path(data.corpus),
        data_dir=data.data_dir and path(data.data_dir),
        cache_dir=data.cache_dir and path(data.cache_dir),
    )


def _differs(run: Run, config: RunConfig) -> bool:
    """Whether a run is another one than that asked for."""
    data = config.data
    manifest = Manifest.read(replace(run, config=config).prepared)
    other_text = manifest is not None and (manifest.changed_file(data) or manifest.added_text(data))
    other_direction = _new_direction(run, config) is not None
    return (
        bool(other_text)
        or other_direction
        or run.config.identity_fields() != config.identity_fields()
    )


def _new_direction(run: Run, config: RunConfig) -> str | None:
    """The direction that is given to a run that has another one; None where it is not."""
    old, new = run.config.data.known_direction, config.data.known_direction
    return new if old is not None and is_direction(old) and new != old else None


def _lost_file(old: DataConfig, new: DataConfig) -> str | None:
    """A text file that is named anew and does not exist; one of the same name may be gone."""
    lost: list[str] = []
    for name in ("train", "validation", "mixed_text"):
        before, paths = getattr(old, name), getattr(new, name)
        if paths is not None and paths != before:
            lost += [path for path in paths if not Path(path).is_file()]
    lost += [path for path in new.treebanks if path not in old.treebanks and not has_trees(path)]
    return lost[0] if lost else None


def _never_saved(run: Run, config: RunConfig) -> bool:
    """Whether a run has no checkpoint, here or where it would be resumed: it may still change.

    False where that cannot be seen.
    """
    stores = run.checkpoint_root, replace(run, config=config).checkpoint_root
    try:
        # It may only be out of sight, as on a disk that is not mounted.
        if not run.checkpoint_root.is_dir():
            return False
        paths = [store / name for store in stores for name in (CHECKPOINTS, DAMAGED)]
        return not any(is_step(p) for path in paths if path.is_dir() for p in path.iterdir())
    except Exception:  # each kind of store has its own
        return False


def _resume_run(
    config: RunConfig,
    run: Run,
    fit_memory: bool,
    optimizer: MakeOptimizer,
    change_optimizer: bool,
) -> Run:
    """Give a run the fields of `config` that may change; nothing is written if it is refused."""
    data, folder = config.data, run.folder
    if (direction := _new_direction(run, config)) is not None:
        raise RunError(
            f"{folder} translates {run.config.data.known_direction}, not {direction}: leave "
            "--direction out, or take another run folder"
        )
    if data.direction is not None and data.direction != run.config.data.direction:
        check_direction(data.direction)
    prepared = replace(run, config=config).prepared
    manifest = Manifest.read(prepared)
    corpus_missing = not (prepared / TRAIN).exists() and data.names_text
    if corpus_missing:
        # Somebody cleared the prepared text away: the same text gives the same corpus.
        given = run.vocabularies
        prepare_cached(
            data,
            len(given.source),
            prepared,
            given,
            target_vocab_size=len(given.target),
            pairing=run.task.pairing,
            texts=run.task.texts(data),
        )
    elif lost := _lost_file(run.config.data, data):
        raise RunError(
            f"{lost} is no file, and {folder} was begun with another name of its text: give a file "
            "that exists, or none to go on with the prepared text"
        )
    elif manifest is not None and (changed := manifest.changed_file(data)):
        raise RunError(
            f"{folder} was prepared from another text than {changed} holds now: bring the old "
            "text back, or take another run folder with --init-from"
        )
    elif manifest is not None and (added := manifest.added_text(data)):
        raise RunError(
            f"{folder} was begun without a {added.removesuffix('_text')} text and cannot take one "
            f"now: leave --{added.replace('_', '-')} out, or take another run folder with "
            "--init-from"
        )
    if manifest is not None and data.corpus:
        config = replace(config, data=with_corpus_fields(data, manifest))
    if manifest is not None and _asks_for(config.model, manifest):
        # Asked for as when the run began; the text may have given fewer types.
        config = replace(config, model=with_vocabulary_sizes(config.model, run.vocabularies))
    if fit_memory:  # as it was fitted when the run began
        tokens = run.config.data.batch_tokens
        steps = run.config.optimizer.accumulation_steps
        config = replace(
            config,
            data=replace(config.data, batch_tokens=tokens),
            optimizer=replace(config.optimizer, accumulation_steps=steps),
        )
    config = replace(config, model=with_kernels(config.model, run))
    run.check_config(config, change_optimizer)
    config = run.task.with_metric(config)
    check_patience(config.train, prepared)
    _check_not_ended(run, config.train)
    changes = _with_change(run, config, optimizer)
    corpus = Corpus.open(prepared / TRAIN)
    corpus.verify()
    try:
        run.check_corpus(prepared, corpus.fingerprint)
    except RunError:
        if corpus_missing:
            shutil.rmtree(prepared)
        raise
    run.config, run.changes = config, changes
    run.write_config()
    return run


def _with_change(
    run: Run, config: RunConfig, optimizer: MakeOptimizer
) -> tuple[OptimizerChange, ...]:
    """The changes of a run that goes on with the optimizer's settings of `config`."""
    if config.optimizer == run.config.optimizer:
        return run.changes
    checkpoints = run.checkpoints(read_only=True)
    steps = checkpoints.steps()
    if not steps:
        raise RunError(
            f"{run.checkpoint_root} holds no checkpoint from which the optimizer's settings could "
            "change: train with the old ones first"
        )
    old = run.at(steps[-1] - 1)
    new = replace(run, config=replace(run.config, optimizer=config.optimizer))
    if (before := old.config.optimizer.accumulation_steps) != config.optimizer.accumulation_steps:
        raise RunError(
            f"{run.folder} was started with accumulation_steps = {before}, which decides the "
            "sentences of every update and cannot be changed: use the old value, or another run "
            "folder with --init-from"
        )
    check_frozen(run.task, config, optimizer)
    shapes = (each.step_functions(optimizer).shapes() for each in (old, new))
    if len({tuple(jax.tree.leaves(each)) for each in shapes}) > 1:
        raise RunError(
            f"{run.folder}: with the new settings of the optimizer another state is kept (as with "
            "ema_decay, which is there from the start or never): use another run folder with "
            "--init-from"
        )
    if old.config.optimizer == config.optimizer:  # a change that is taken back
        return old.changes
    scheduled = steps[-1] in checkpoints.scheduled_steps()
    change = OptimizerChange(steps[-1], old.config.optimizer, scheduled)
    log.info("%s: settings of the optimizer change after update %d", run.folder, change.step)
    return (*old.changes, change)


def with_kernels(model: ModelConfig, run: Run) -> ModelConfig:
    """Give a model the kernels of its run, where no others are asked for."""
    own = run.config.model.chosen_kernels
    if model.kernels == "auto":
        return replace(model, kernels=own)
    if model.kernels != own:
        log.info(
            "%s goes on with kernels %s instead of %s: numbers differ by rounding from here",
            run.folder, model.kernels, own,
        )  # fmt: skip
    return model


def _asks_for(model: ModelConfig, manifest: Manifest) -> bool:
    """Whether a model asks for vocabularies of the sizes asked for when text was prepared."""
    target = None if manifest.pairing.joint else model.target_vocab_size or model.vocab_size
    return (model.vocab_size, target) == (manifest.vocab_size, manifest.target_vocab_size)


def _check_not_ended(run: Run, train: TrainConfig) -> None:
    """Raise RunError for a run that has more steps, or has ended by the patience asked for."""
    if not (run.checkpoint_root / CHECKPOINTS).is_dir():
        return
    try:
        checkpoints = run.checkpoints(read_only=True)
        newest = max(checkpoints.steps(), default=0)
        meta = checkpoints.metadata(newest) if newest and train.patience is not None else None
    except DamagedCheckpoint:
        return  # the run resumes from an older one
    if newest > train.steps:
        raise RunError(
            f"{run.folder} is at step {newest}, beyond the {train.steps} asked for: give as many "
            "--steps or more, or take another run folder"
        )
    if meta is None:
        return
    patience = Patience.of(train, run.task.best_metrics, meta)
    # A job that was killed before it had taken the average still takes it.
    if patience.ended and step_folder(run.checkpoint_root / AVERAGED, newest).is_dir():
        count = patience.evaluations_without_gain
        raise RunError(
            f"{run.folder} ended at step {newest}: {count} evaluations in a row had no gain in "
            f"{train.best_metric}; to resume, give another --patience than {train.patience}, or "
            "None"
        )


def restore_or_init(
    run: Run,
    checkpoints: Checkpoints,
    template: TrainState,
    init: Callable[[jax.Array], TrainState],
    init_from: Path | None,
    optimizer: MakeOptimizer,
) -> tuple[TrainState, dict[str, Any]]:
    """Restore the newest intact checkpoint, or make a new state.

    Args:
        run: The run.
        checkpoints: Its checkpoints; damaged ones are moved away.
        template: Shapes and shardings of the state.
        init: rng -> a new state.
        init_from: Another run to take the parameters of a new state from.
        optimizer: Makes the optimizer.

    Returns:
        The state, and the metadata of its checkpoint ({} for a new state).

    Raises:
        RunError: A checkpoint belongs to another run, or none is intact.
    """
    reason = ""
    for step in reversed(checkpoints.steps()):
        try:
            saved = _saved_form(run.at(step - 1), run, template, optimizer)
            items, meta = checkpoints.restore(step, state_to_items(saved))
        except DamagedCheckpoint as error:
            log.warning("%s; moved to damaged/, trying an older one", error)
            reason = reason or str(error)
            continue
        if not run.is_own(meta["run_identity"], step):
            raise RunError(
                f"checkpoint {step} of {run.folder} was saved with another configuration or text: "
                "config.json is not the one that it was trained with"
            )
        checkpoints.quarantine_after(step)
        leaves = jax.tree.leaves(state_from_items(items))
        return jax.tree.unflatten(jax.tree.structure(template), leaves), meta
    if checkpoints.steps():
        raise RunError(
            f"{run.folder} has no intact checkpoint to resume from: {reason} (a run that was "
            "trained with an optimizer of your own needs the same one)"
        )
    places = jax.tree.map(lambda leaf: leaf.sharding, template)
    state = jax.jit(init, out_shardings=places)(seed_key(run.config.train.seed))
    if init_from is not None:
        variables, name = load_variables(Run.open(init_from), make_template=template_of(template))
        params = variables.pop("params")
        log.info("starting from %s, %s", init_from, name)
        # The state is donated to each step, so the average needs arrays of its own.
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        state = state._replace(params=params, ema=ema, collections=variables)
    return state, {}


def _saved_form(then: Run, now: Run, template: TrainState, optimizer: MakeOptimizer) -> TrainState:
    """Give the leaves of `template` the form that they were saved in: clipping adds a part to the
    optimizer's state that holds nothing."""
    if then.config.optimizer == now.config.optimizer:
        return template
    form = jax.tree.structure(then.step_functions(optimizer).shapes())
    return jax.tree.unflatten(form, jax.tree.leaves(template))


def template_of(template: TrainState) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give what turns named trees of a state into their shapes and shardings in `template`."""
    return lambda items: {name: getattr(template, name) for name in items}
