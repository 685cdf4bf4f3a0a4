"""A run folder opened for training: a new one, or one that goes on."""

import dataclasses
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer_jax.checkpoints import DamagedCheckpoint
from transformer_jax.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from transformer_jax.data.corpus import Corpus, CorpusError
from transformer_jax.data.preparation import Receipt, prepare_once
from transformer_jax.data.vocabulary import Vocabularies
from transformer_jax.languages import check_direction
from transformer_jax.models.families import build_model, family_of
from transformer_jax.parallel import Layout
from transformer_jax.run import Run, RunError
from transformer_jax.tasks import Task, task_of
from transformer_jax.tasks.task import MakeOptimizer
from transformer_jax.training.memory import check_model, fit_memory
from transformer_jax.training.patience import Patience

__all__ = ["open_run", "opened_run"]

log = logging.getLogger(__name__)

# Fine-tuning may change these; the others decide what the parameters mean.
_NOT_IN_PARAMETERS = {
    "vocab_size",
    "target_vocab_size",
    "dropout",
    "attention_dropout",
    "relu_dropout",
    "dtype",
}


def _absolute(data: DataConfig) -> DataConfig:
    """Paths that hold from any working folder."""

    def path(given: str) -> str:
        return str(Path(given).absolute())

    def pair(given: tuple[str, str]) -> tuple[str, str]:
        return path(given[0]), path(given[1])

    return replace(
        data,
        train=data.train and pair(data.train),
        validation=data.validation and pair(data.validation),
        corpus=data.corpus and path(data.corpus),
        data_dir=data.data_dir and path(data.data_dir),
        cache_dir=data.cache_dir and path(data.cache_dir),
    )


def open_run(
    config: RunConfig,
    folder: Path,
    init_from: Path | None,
    fit: bool,
    layout: Layout,
    optimizer: MakeOptimizer,
) -> tuple[Run, Corpus]:
    """The run in `folder`, or a new one, with its corpus; `train` says what the options mean."""
    config = replace(config, data=_absolute(config.data))
    if (store := config.train.checkpoint_dir) is not None and "://" not in store:
        train = replace(config.train, checkpoint_dir=str(Path(store).absolute()))
        config = replace(config, train=train)
    run = Run.open(folder) if Run.exists(folder) else None
    if config.data.direction is None:
        direction = config.data.known_direction
        if direction is None and run is not None:
            direction = run.config.data.direction
        config = replace(config, data=replace(config.data, direction=direction))
    # In this order: whether the text differs is known when all of it has been read.
    if run is None or (_never_saved(run, config) and _differs(run, config)):
        return _begin(config, folder, init_from, fit, layout, optimizer)
    if init_from is not None:
        log.info("%s exists and goes on from its own checkpoints, not %s", folder, init_from)
    return _go_on(config, run, fit)


def opened_run(folder: Path) -> tuple[Run, Corpus]:
    """The run that another process has just opened for training."""
    run = Run.open(folder)
    return run, Corpus.open(_prepared(run.config.data, folder) / "train")


def _prepared(data: DataConfig, folder: Path) -> Path:
    return Path(data.corpus) if data.corpus else folder / "corpus"


def _differs(run: Run, config: RunConfig) -> bool:
    """Whether a run is another one than that asked for."""
    data, receipt = config.data, Receipt.read(_prepared(config.data, run.folder))
    other_text = receipt is not None and (
        receipt.changed_file(data) or (data.validation and receipt.validation is None)
    )
    return bool(other_text) or run.config.deciding() != config.deciding()


def _never_saved(run: Run, config: RunConfig) -> bool:
    """Whether a run has no checkpoint, here or where it would go on: it may still become another.

    False where that cannot be seen.
    """
    stores = run.store, replace(run, config=config).store
    try:
        # It may only be out of sight, as on a disk that is not mounted.
        if not run.store.is_dir():
            return False
        paths = [store / name for store in stores for name in ("checkpoints", "damaged")]
        return not any(
            p.name.isdecimal() for path in paths if path.is_dir() for p in path.iterdir()
        )
    except Exception:  # each kind of store has its own
        return False


def _begin(
    config: RunConfig,
    folder: Path,
    init_from: Path | None,
    fit: bool,
    layout: Layout,
    optimizer: MakeOptimizer,
) -> tuple[Run, Corpus]:
    """A new run; its config.json is written last, so that a folder without one is no run."""
    task = _checked_task(config)
    if config.data.train and not config.data.validation:
        _check_patience(config.train, None)  # before the text is prepared
    check_model(config.model, layout)
    other = None if init_from is None else Run.open(init_from)
    data = config.data
    if data.corpus:
        prepared = Path(data.corpus)
        receipt = Receipt.read(prepared)
        if receipt is None:
            raise CorpusError(
                f"{prepared} holds no prepared corpus: run `transformer-jax prepare` first"
            )
        if data.direction is not None:
            check_direction(data.direction)
        # The configuration tells how the corpus was made, whatever the preset says.
        if receipt.pairing != task.pairing:
            raise CorpusError(
                f"{prepared} was prepared for another task than {data.task}: prepare the text anew"
            )
        kind: Any = receipt.vocabulary
        data = replace(data, vocabulary=kind, max_length=receipt.max_length)
    else:
        prepared = folder / "corpus"
        prepare_once(
            data,
            config.model.vocab_size,
            prepared,
            None if other is None else other.vocabularies,
            target_vocab_size=config.model.target_vocab_size,
            pairing=task.pairing,
        )
    corpus = Corpus.open(prepared / "train")
    corpus.verify()
    if data.corpus and data.direction is None:
        data = replace(data, direction=corpus.direction)
    config = replace(config, model=_with_sizes(config.model, corpus.vocabularies), data=data)
    config = task.with_metric(config)
    _check_patience(config.train, prepared)
    lines = corpus.lines
    if other is not None:
        _check_start(config, corpus, other)
        lines = lines.joined(other.lines)
    if fit:
        functions = task.step_functions(
            build_model(config.model), config.optimizer, config.train.seed, optimizer
        )
        config = fit_memory(config, corpus, layout, functions)
    return Run.create(folder, config, corpus, lines), corpus


def _checked_task(config: RunConfig) -> Task:
    """The task of a new run; UserError where it, the model and the text do not go together."""
    task, model, data = task_of(config.data), config.model, config.data
    task.check_metric(config.train.best_metric)
    target = model.target_vocab_size
    if task.pairing.joint and target is not None:
        raise RunError(
            f"target_vocab_size {target}: the task {data.task} has one vocabulary for both sides: "
            "leave it out"
        )
    family = family_of(model)
    own = None if task.pairing.joint else target or model.vocab_size
    family.check(replace(model, target_vocab_size=own))
    longest = family.longest(model)
    if longest is not None and data.max_length > longest:
        raise RunError(
            f"max_length {data.max_length} is more than the {longest} tokens that the architecture "
            f"{model.architecture} reads at most: lower it"
        )
    return task


def _check_patience(train: TrainConfig, prepared: Path | None) -> None:
    """RunError for patience without a validation text, which would be in the prepared folder."""
    there = prepared is not None and (prepared / "validation").is_dir()
    if train.patience is not None and not there:
        raise RunError(
            f"patience {train.patience} counts evaluations, and there is no validation text: give "
            "one, or leave --patience out"
        )


def _check_not_ended(run: Run, train: TrainConfig) -> None:
    """RunError for a run that has ended by the patience that is asked for again."""
    if train.patience is None or not (run.store / "checkpoints").is_dir():
        return
    try:
        checkpoints = run.checkpoints(read_only=True)
        newest = [(step, checkpoints.metadata(step)) for step in checkpoints.steps()[-1:]]
    except DamagedCheckpoint:
        return  # the run goes on from an older one
    for step, meta in newest:
        patience = Patience.of(train, run.task.metrics, meta)
        # A job that was killed before it had taken the average still takes it.
        if patience.ended and (run.store / "averaged" / str(step)).is_dir():
            raise RunError(
                f"{run.folder} ended at step {step}: {patience.waited} evaluations in a row had no "
                f"gain in {train.best_metric}; to go on give another --patience than "
                f"{train.patience}, or None"
            )


def _with_sizes(model: ModelConfig, vocabularies: Vocabularies) -> ModelConfig:
    """A model with the rows that its vocabularies have."""
    source, target = map(len, vocabularies)
    own = None if vocabularies.joint else target
    return replace(model, vocab_size=source, target_vocab_size=own)


def _asks_for(model: ModelConfig, receipt: Receipt) -> bool:
    """Whether a model asks for vocabularies as large as those asked for when text was prepared."""
    target = None if receipt.pairing.joint else model.target_vocab_size or model.vocab_size
    return (model.vocab_size, target) == (receipt.vocab_size, receipt.target_vocab_size)


def _check_start(config, corpus, other):
    """Parameters of another run mean something only to the same architecture and vocabulary."""
    pairs = zip(corpus.vocabularies, other.vocabularies)
    if any(ours.to_bytes() != theirs.to_bytes() for ours, theirs in pairs):
        raise RunError(
            f"{corpus.folder} was prepared with another vocabulary than that of --init-from "
            f"{other.folder}: start from the text, it takes that run's vocabulary"
        )
    ours, theirs = (dataclasses.asdict(c.model) for c in (config, other.config))
    for name in ours.keys() - _NOT_IN_PARAMETERS:
        if ours[name] != theirs[name]:
            raise RunError(
                f"--init-from {other.folder}: its {name} is {theirs[name]!r}, not {ours[name]!r}"
            )


def _go_on(config: RunConfig, run: Run, fit: bool) -> tuple[Run, Corpus]:
    """A run with the run fields of `config`; nothing is written if refused."""
    data, folder = config.data, run.folder
    prepared = _prepared(data, folder)
    receipt = Receipt.read(prepared)
    cleared = not (prepared / "train").exists() and (data.train or data.dataset)
    if cleared:
        # Somebody cleared the prepared text away: the same text gives the same corpus.
        given = run.vocabularies
        prepare_once(
            data,
            len(given.source),
            prepared,
            given,
            target_vocab_size=len(given.target),
            pairing=run.task.pairing,
        )
    elif receipt is not None and (changed := receipt.changed_file(data)):
        raise RunError(
            f"{folder} was prepared from another text than {changed} holds now: bring the old "
            "text back, or take another run folder with --init-from"
        )
    elif receipt is not None and data.validation and receipt.validation is None:
        raise RunError(
            f"{folder} was begun without a validation text and cannot take one now: leave "
            "--validation out, or take another run folder with --init-from"
        )
    if receipt is not None and _asks_for(config.model, receipt):
        # Asked for as when the run began; the text may have given fewer types.
        config = replace(config, model=_with_sizes(config.model, run.vocabularies))
    if fit:  # as it was fitted when the run began
        old = run.config
        config = replace(
            config,
            data=replace(config.data, batch_tokens=old.data.batch_tokens),
            optimizer=replace(config.optimizer, accumulate=old.optimizer.accumulate),
        )
    run.check_config(config)
    config = run.task.with_metric(config)
    _check_patience(config.train, prepared)
    _check_not_ended(run, config.train)
    corpus = Corpus.open(prepared / "train")
    corpus.verify()
    try:
        run.check_corpus(prepared, corpus.fingerprint)
    except RunError:
        if cleared:
            shutil.rmtree(prepared)
        raise
    run.config = config
    run.write_config()
    return run, corpus
