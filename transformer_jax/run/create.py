"""Creating a run folder: text prepared, configuration checked against it, then written."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer_jax.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from transformer_jax.config.languages import check_direction
from transformer_jax.data.corpus import Corpus, CorpusError
from transformer_jax.data.manifest import Manifest
from transformer_jax.data.preparation import TRAIN, VALIDATION, prepare_cached
from transformer_jax.data.text_pipeline import PipelineVocabulary, TextPipeline
from transformer_jax.data.vocabulary import Vocabularies, load_vocabularies
from transformer_jax.devices.layout import Layout
from transformer_jax.models.families import build_model, family_of
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.names import PREPARED
from transformer_jax.tasks import Task, task_of
from transformer_jax.training.frozen import select_frozen
from transformer_jax.training.memory import check_model, fit_batches
from transformer_jax.training.optimizer import MakeOptimizer

__all__ = [
    "check_frozen",
    "check_patience",
    "create_run",
    "with_corpus_fields",
    "with_vocabulary_sizes",
]

# Fine-tuning may change these; the others decide what the parameters mean.
_MAY_DIFFER_WHEN_FINE_TUNING = {
    "vocab_size",
    "target_vocab_size",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "dtype",
    "kernels",
    "remat",
}


def create_run(
    config: RunConfig,
    folder: Path,
    init_from: Path | None,
    fit_memory: bool,
    layout: Layout,
    optimizer: MakeOptimizer,
) -> Run:
    """Create a run; its config.json is written last, so that a folder without one is no run.

    Args:
        config: What to train; the sizes of its vocabularies become those of the text.
        folder: The run folder.
        init_from: Another run to take vocabulary and parameters from.
        fit_memory: Whether to divide each update into batches that the device holds.
        layout: The devices.
        optimizer: Makes the optimizer.

    Raises:
        UserError: The configuration, the text or the other run cannot be used.
    """
    config = replace(config, model=replace(config.model, kernels=config.model.chosen_kernels))
    task = _checked_task(config)
    if config.data.train and not config.data.validation:
        check_patience(config.train, None)  # before the text is prepared
    check_model(config.model, layout)
    check_frozen(task, config, optimizer)
    other = None if init_from is None else Run.open(init_from)
    data = config.data
    if data.corpus:
        prepared = Path(data.corpus)
        manifest = Manifest.read(prepared)
        if manifest is None:
            raise CorpusError(
                f"{prepared} holds no prepared corpus: run `transformer-jax prepare` first"
            )
        if data.direction is not None:
            check_direction(data.direction)
        # The configuration tells how the corpus was made, whatever the preset says.
        if manifest.pairing != task.pairing:
            raise CorpusError(
                f"{prepared} was prepared for another task than {data.task}: prepare the text again"
            )
        data = with_corpus_fields(data, manifest)
    else:
        if other is not None:
            _check_text_fields(data, task, other)
        prepared = folder / PREPARED
        prepare_cached(
            data,
            config.model.vocab_size,
            prepared,
            None if other is None else other.vocabularies,
            target_vocab_size=config.model.target_vocab_size,
            pairing=task.pairing,
            texts=task.texts(data),
        )
    corpus = Corpus.open(prepared / TRAIN)
    corpus.verify()
    if data.corpus and data.direction is None:
        data = replace(data, direction=corpus.direction)
    config = replace(
        config, model=with_vocabulary_sizes(config.model, corpus.vocabularies), data=data
    )
    config = task.with_metric(config)
    check_patience(config.train, prepared)
    lines = corpus.lines
    if other is not None:
        _check_init_from(config, corpus, other)
        lines = lines.merged(other.lines)
    if fit_memory:
        model = task.model(config.model, corpus.vocabularies)
        functions = task.step_functions(model, config.optimizer, config.train.seed, optimizer)
        config = fit_batches(config, corpus, layout, functions)
    return Run.create(folder, config, corpus, lines)


def _checked_task(config: RunConfig) -> Task:
    """Return the task of a new run.

    Raises UserError where task, model and text do not belong together.
    """
    task, model, data = task_of(config.data), config.model, config.data
    task.check_metric(config.train.best_metric)
    target = model.target_vocab_size
    if task.pairing.joint and target is not None:
        raise RunError(
            f"target_vocab_size {target}: the task {data.task} has one vocabulary for both sides: "
            "leave it out"
        )
    task.check_model(model)
    family = family_of(model)
    own = None if task.pairing.joint else target or model.vocab_size
    family.check(replace(model, target_vocab_size=own))
    longest = family.max_length(model)
    if longest is not None and data.max_length > longest:
        raise RunError(
            f"max_length {data.max_length} is more than the {longest} tokens that the architecture "
            f"{model.architecture} reads at most: lower it"
        )
    return task


def check_frozen(task: Task, config: RunConfig, optimizer: MakeOptimizer) -> None:
    """Raise UserError where frozen parameters are none of the model's, or all of them."""
    if names := config.optimizer.frozen:
        # There are no vocabularies yet, and a task's model has the parameters of its family's.
        functions = task.step_functions(
            build_model(config.model), config.optimizer, config.train.seed, optimizer
        )
        select_frozen(functions.shapes().params, names)


def check_patience(train: TrainConfig, prepared: Path | None) -> None:
    """Raise RunError for patience without a validation text.

    `prepared` is the folder of the prepared text; None means that there will be no such text.
    """
    there = prepared is not None and (prepared / VALIDATION).is_dir()
    if train.patience is not None and not there:
        raise RunError(
            f"patience {train.patience} counts evaluations, and there is no validation text: give "
            "one, or leave --patience out"
        )


def with_vocabulary_sizes(model: ModelConfig, vocabularies: Vocabularies) -> ModelConfig:
    """Give a model as many rows as its vocabularies have types."""
    source, target = map(len, vocabularies)
    own = None if vocabularies.joint else target
    return replace(model, vocab_size=source, target_vocab_size=own)


def with_corpus_fields(data: DataConfig, manifest: Manifest) -> DataConfig:
    """Give the fields that say how text is prepared the values that prepared text has, whatever a
    preset says.

    Args:
        data: The settings, with a corpus.
        manifest: That of the corpus.
    """
    vocabulary: Any = manifest.vocabulary
    source = load_vocabularies(Path(str(data.corpus)) / TRAIN).source
    pipeline = source.pipeline if isinstance(source, PipelineVocabulary) else TextPipeline()
    return replace(
        data,
        vocabulary=vocabulary,
        max_length=manifest.max_length,
        text_normalization=pipeline.normalization,
        word_splitting=pipeline.word_splitting,
        source_tag=pipeline.tag,
        mixed_ratio=1.0 if manifest.mixed is None else float(manifest.mixed.split()[-1]),
    )


def _check_text_fields(data: DataConfig, task: Task, other: Run) -> None:
    """Refuse what is asked of a vocabulary that is taken over and has it otherwise."""
    if any(
        getattr(task.pairing, name) != getattr(other.task.pairing, name)
        for name in ("target_vocabulary", "form")
    ):
        raise RunError(
            f"--init-from {other.folder} was trained for {other.config.data.task}, whose targets "
            f"are written otherwise than those of {data.task}: give a run of the same task"
        )
    for side, language in zip(other.vocabularies, data.languages):
        own = side.pipeline.language if isinstance(side, PipelineVocabulary) else None
        if own is not None and own != language:
            raise RunError(
                f"the vocabulary is that of --init-from {other.folder}, which prepares text in "
                f"{own} as Moses does, and this is in {language or 'a language not given'}: train "
                "a model of its own for other languages"
            )
    for name in ("vocabulary", "text_normalization", "word_splitting", "source_tag"):
        wanted, own = getattr(data, name), getattr(other.config.data, name)
        if wanted != own:
            option = f"--{name.replace('_', '-')}"
            raise RunError(
                f"{name} {wanted}: the vocabulary is that of --init-from {other.folder}, which is "
                f"{own}: leave {option} out, or give {option} {own}"
            )


def _check_init_from(config, corpus, other):
    """Refuse parameters of another architecture or vocabulary, where they would mean nothing."""
    pairs = zip(corpus.vocabularies, other.vocabularies)
    if any(ours.to_bytes() != theirs.to_bytes() for ours, theirs in pairs):
        raise RunError(
            f"{corpus.folder} was prepared with another vocabulary than that of --init-from "
            f"{other.folder}: start from the text, it takes that run's vocabulary"
        )
    ours, theirs = (dataclasses.asdict(c.model) for c in (config, other.config))
    for name in ours.keys() - _MAY_DIFFER_WHEN_FINE_TUNING:
        if ours[name] != theirs[name]:
            raise RunError(
                f"--init-from {other.folder}: its {name} is {theirs[name]!r}, not {ours[name]!r}"
            )
