"""A training job: from a RunConfig to a trained run folder, or on from where one stopped."""

import dataclasses
import logging
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.checkpoints import Checkpoints, DamagedCheckpoint, on_device
from transformer_jax.config import DataConfig, RunConfig
from transformer_jax.data.batching import Batches, Prefetch
from transformer_jax.data.corpus import Corpus, CorpusError
from transformer_jax.data.preparation import Receipt, prepare_once
from transformer_jax.decoding.inference import Inference
from transformer_jax.evaluation.bleu import suited_bleu
from transformer_jax.evaluation.evaluate import make_evaluation
from transformer_jax.locking import locked
from transformer_jax.models.transformer import Transformer
from transformer_jax.run import Run, RunError, state_items, state_of
from transformer_jax.search import Search
from transformer_jax.training.allocator import keep_freed_memory
from transformer_jax.training.loop import train_loop
from transformer_jax.training.metrics import Recorder
from transformer_jax.training.state import TrainState
from transformer_jax.training.step import StepFunctions, jit_step, make_step
from transformer_jax.training.stopping import Stopped, stop_signals

__all__ = ["average", "train"]

log = logging.getLogger(__name__)

# Fine-tuning may change these; the others decide what the parameters mean.
_NOT_IN_PARAMETERS = {"vocab_size", "dropout", "attention_dropout", "relu_dropout", "dtype"}


def train(
    config: RunConfig, folder: Path, *, init_from: Path | None = None, progress: bool = True
) -> Run:
    """Train in `folder`, or go on there from the newest sound checkpoint.

    `init_from` names another run whose vocabulary and parameters a new run starts with; a run
    that goes on has them already. Evaluates, saves and at the end averages checkpoints as
    `config.train` says. One job at a time may hold the folder. SIGINT and SIGTERM end the job
    after its step, saved, with `Stopped`.
    """
    config = replace(config, data=_absolute(config.data))
    with locked(folder, f"another job is training in {folder}"):
        if Run.exists(folder):
            if init_from is not None:
                log.info(
                    "%s exists and goes on from its own checkpoints, not %s", folder, init_from
                )
            run, corpus = _go_on(config, folder)
        else:
            run, corpus = _begin(config, folder, init_from)
        _train(run, corpus, init_from, progress)
    return run


def average(folder: Path, *, last: int = 5, steps: Sequence[int] = ()) -> list[int]:
    """Write a run's averaged/ anew: from its newest `last` checkpoints, or from those of `steps`.

    Returns the steps averaged.
    """
    if last < 1:
        raise RunError(f"last {last} must be positive")
    run = Run.open(folder)
    with locked(folder, f"a job is training in {folder}: average when it has ended"):
        checkpoints = run.checkpoints(read_only=True)
        found = checkpoints.due_steps()
        if missing := [step for step in steps if step not in found]:
            raise RunError(
                f"{folder} has no checkpoint {', '.join(map(str, missing))}; it has "
                f"{', '.join(map(str, found)) or 'none'}"
            )
        chosen = sorted(set(steps)) or found[-last:]
        if not chosen:
            raise RunError(f"{folder} has no checkpoint yet")
        functions = make_step(
            Transformer(run.config.model), run.config.optimizer, run.config.train.seed
        )
        state = jax.eval_shape(functions.init, jax.random.key(0))
        run.average(checkpoints, state.params, chosen)
    return chosen


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


def _begin(config: RunConfig, folder: Path, init_from: Path | None) -> tuple[Run, Corpus]:
    """A new run; its config.json is written last, so that a folder without one is no run."""
    other = None if init_from is None else Run.open(init_from)
    data = config.data
    if data.corpus:
        prepared = Path(data.corpus)
        receipt = Receipt.read(prepared)
        if receipt is None:
            raise CorpusError(
                f"{prepared} holds no prepared corpus: run `transformer-jax prepare` first"
            )
        # The configuration tells how the corpus was made, whatever the preset says.
        kind: Any = receipt.vocabulary
        data = replace(data, vocabulary=kind, max_length=receipt.max_length)
    else:
        prepared = folder / "corpus"
        vocabulary = None if other is None else other.vocabulary
        prepare_once(data, config.model.vocab_size, prepared, vocabulary)
    corpus = Corpus.open(prepared / "train")
    corpus.verify()
    model = replace(config.model, vocab_size=len(corpus.vocabulary))
    config = replace(config, model=model, data=data)
    if other is not None:
        _check_start(config, corpus, other)
    return Run.create(folder, config, corpus.fingerprint, corpus.vocabulary), corpus


def _check_start(config, corpus, other):
    """Parameters of another run mean something only to the same architecture and vocabulary."""
    if corpus.vocabulary.to_bytes() != other.vocabulary.to_bytes():
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


def _go_on(config: RunConfig, folder: Path) -> tuple[Run, Corpus]:
    """The run in `folder`, with the run fields of `config`; nothing is written if refused."""
    run = Run.open(folder)
    data = config.data
    prepared = Path(data.corpus) if data.corpus else folder / "corpus"
    receipt = Receipt.read(prepared)
    cleared = not (prepared / "train").exists() and (data.train or data.dataset)
    if cleared:
        # Somebody cleared the prepared text away: the same text gives the same corpus.
        prepare_once(data, len(run.vocabulary), prepared, run.vocabulary)
    elif receipt is not None and (changed := receipt.changed_file(data)):
        raise RunError(
            f"{folder} was prepared from another text than {changed} holds now: bring the old "
            "text back, or take another run folder with --init-from"
        )
    if receipt is not None and config.model.vocab_size == receipt.vocab_size:
        # Asked for as when the run began; the text may have given fewer types.
        model = replace(config.model, vocab_size=run.config.model.vocab_size)
        config = replace(config, model=model)
    run.check_config(config)
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


def _train(run, corpus, init_from, progress):
    config = run.config
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    model = Transformer(config.model)
    functions = make_step(model, config.optimizer, config.train.seed)
    checkpoints = run.checkpoints()
    state, pending = _start(run, functions, checkpoints, init_from)
    first = int(state.step)
    batches = Batches(corpus, config.data, config.train.seed)
    accumulate = config.optimizer.accumulate
    recorder = Recorder(
        run.folder,
        log_every=config.train.log_every,
        total_steps=config.train.steps,
        first_step=first,
        pending=pending,
        progress=progress,
    )
    evaluate = _evaluation(model, config, corpus.folder.with_name("validation"))

    def micro_batches(step):
        return tuple(batches.batch(step * accumulate + i) for i in range(accumulate))

    def save(state, step, scores):
        items, meta = state_items(state), _metadata(run, recorder.pending)
        checkpoints.save(step, items, meta, scores, out_of_turn=scores is None)

    def is_epoch_end(step):
        # The epoch of the first batch not yet seen differs from that of the last one seen.
        done = step * accumulate
        return batches.epoch_of(done) != batches.epoch_of(done - accumulate)

    prefetch = Prefetch(micro_batches, first, config.train.steps)
    try:
        with stop_signals() as received:
            recorder.say(_describe(corpus, batches, state, config.train.steps))
            state = train_loop(
                state,
                jit_step(functions),
                prefetch,
                config.train,
                recorder,
                evaluate=evaluate,
                save=save,
                is_epoch_end=is_epoch_end,
                accumulate=accumulate,
                waited=lambda: prefetch.waited,
                stopped=lambda: received() is not None,
            )
        checkpoints.wait()
        stopped = received()
        if stopped is not None and int(state.step) < config.train.steps:
            raise Stopped(
                stopped,
                f"stopped by {stopped.name} after step {int(state.step)}, which is saved; go on "
                f"with: transformer-jax train --run-dir {shlex.quote(str(run.folder))}",
            )
        template = jax.eval_shape(lambda s: s.params, state)
        run.average(checkpoints, template, checkpoints.due_steps()[-config.train.average_last :])
    finally:
        prefetch.close()
        recorder.close()
        checkpoints.close()


def _start(
    run: Run, functions: StepFunctions, checkpoints: Checkpoints, init_from: Path | None
) -> tuple[TrainState, dict | None]:
    """The newest sound checkpoint, or a new state; and the sums its metrics go on from."""
    rng = jax.random.key(run.config.train.seed)
    template = on_device(jax.eval_shape(functions.init, rng))
    for step in reversed(checkpoints.steps()):
        try:
            items, meta = checkpoints.restore(step, state_items(template))
        except DamagedCheckpoint as error:
            log.warning("%s; moved to damaged/, trying an older one", error)
            continue
        if meta["run"] != run.identity:
            raise RunError(
                f"checkpoint {step} of {run.folder} was saved with another configuration or text: "
                "config.json is not the one that it was trained with"
            )
        checkpoints.set_aside_after(step)
        return state_of(items), meta["pending"]
    if checkpoints.steps():
        raise RunError(f"{run.folder} has no sound checkpoint to go on from")
    state = jax.jit(functions.init)(rng)
    if init_from is not None:
        params, name = Run.open(init_from).load_params(template.params)
        log.info("starting from %s, %s", init_from, name)
        # The state is donated to each step, so the average needs arrays of its own.
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        state = state._replace(params=params, ema=ema)
        # So that a run killed before its first checkpoint goes on from these.
        checkpoints.save(0, state_items(state), _metadata(run, None), out_of_turn=True)
    return state, None


def _metadata(run, pending):
    return {"pending": pending, "run": run.identity}


def _evaluation(model, config, folder):
    """state -> scores on the prepared validation text; nothing where there is none."""
    if not folder.is_dir():
        return lambda state: {}
    corpus = Corpus.open(folder)
    batches = Batches(
        corpus, dataclasses.replace(config.data, num_shapes=min(8, config.data.num_shapes)), seed=0
    )
    evaluate = make_evaluation(model)
    inference = Inference(model, None)

    def greedy_bleu(params):
        inference.params = params
        decode = corpus.vocabulary.decode
        sources, references = (list(_sentences(side)) for side in (corpus.source, corpus.target))
        found = inference.translate(sources, Search(method="greedy"))
        # Parameters that are not finite translate to nothing.
        hypotheses = [decode(best[0].ids) if best else "" for best in found]
        return suited_bleu(corpus.vocabulary, hypotheses, [decode(r) for r in references]).value

    def scores(state):
        params = state.evaluation_params
        found = evaluate(params, batches.once())
        if config.train.best_metric == "bleu":
            found["bleu"] = greedy_bleu(params)
        return {f"validation_{name}": value for name, value in found.items()}

    return scores


def _sentences(side) -> Iterator[list[int]]:
    start = 0
    for end in side.ends:
        yield side.tokens[start : end - 1].tolist()
        start = end


def _describe(corpus, batches, state, steps):
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    epoch = batches.batches_before(1000) / 1000
    return (
        f"{len(corpus)} sentence pairs, vocabulary {len(corpus.vocabulary)}, "
        f"{parameters:,} parameters, {epoch:.1f} batches an epoch, "
        f"{batches.padding_share():.1%} padding, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)\n"
        f"from step {int(state.step)} to {steps}; shapes of batches: {len(batches.shapes)}, each "
        "is compiled when it comes first"
    )
