"""A training job: from a RunConfig to a trained run folder, or on from where one stopped."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from transformer_jax.checkpoints import Checkpoints, DamagedCheckpoint, on_device
from transformer_jax.config import DataConfig, RunConfig
from transformer_jax.data.batching import Batches, Prefetch
from transformer_jax.data.corpus import Corpus, CorpusError, write_corpus
from transformer_jax.data.text import read_pairs
from transformer_jax.data.vocabulary import Vocabulary, train_vocabulary
from transformer_jax.decoding.inference import Inference
from transformer_jax.evaluation.bleu import sacre_score
from transformer_jax.evaluation.evaluate import make_evaluation
from transformer_jax.models.transformer import Transformer
from transformer_jax.run import Run, RunError, state_items, state_of
from transformer_jax.search import Search
from transformer_jax.training.loop import train_loop
from transformer_jax.training.metrics import Recorder
from transformer_jax.training.state import TrainState
from transformer_jax.training.step import StepFunctions, jit_step, make_step

__all__ = ["prepare", "train"]

log = logging.getLogger(__name__)


def prepare(data: DataConfig, vocab_size: int, folder: Path) -> Path:
    """Train the vocabulary and tokenise the text into folder/train and folder/validation.

    What is there already from the same files with the same settings is left as it is.
    """
    if data.train is None:
        raise CorpusError("no training text: give --train SOURCE TARGET or --corpus FOLDER")
    inputs = _inputs_digest(data, vocab_size)
    receipt = folder / "inputs.json"
    if receipt.is_file() and receipt.read_text(encoding="utf-8") == inputs:
        return folder
    lines = (line for pair in read_pairs(*data.train) for line in pair)
    vocabulary = train_vocabulary(data.vocabulary, lines, vocab_size)
    receipt.unlink(missing_ok=True)
    corpus = write_corpus(folder / "train", read_pairs(*data.train), vocabulary, data.max_length)
    skipped = {reason: count for reason, count in corpus.left_out.items() if count}
    if skipped:
        log.warning("%s of %s: pairs left out of training: %s", *_counts(corpus), skipped)
    if data.validation is not None:
        write_corpus(folder / "validation", read_pairs(*data.validation), vocabulary)
    receipt.write_text(inputs, encoding="utf-8")
    return folder


def _counts(corpus):
    return sum(corpus.left_out.values()), len(corpus) + sum(corpus.left_out.values())


def _inputs_digest(data: DataConfig, vocab_size: int) -> str:
    """What a prepared corpus was made from, as the text of its inputs.json."""

    def digest(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    files = [[digest(path) for path in pair] for pair in (data.train, data.validation) if pair]
    settings = [data.vocabulary, vocab_size, data.max_length]
    return json.dumps({"sha256": files, "settings": settings}) + "\n"


def train(
    config: RunConfig, folder: Path, *, init_from: Path | None = None, progress: bool = True
) -> Run:
    """Train in `folder`, or go on there from the newest sound checkpoint.

    `init_from` names another run whose parameters a new run starts from. Evaluates, saves and at
    the end averages checkpoints as `config.train` says.
    """
    data = config.data
    prepared = Path(data.corpus) if data.corpus else folder / "corpus"
    if not data.corpus:
        prepare(data, config.model.vocab_size, prepared)
    corpus = Corpus.open(prepared / "train")
    model_config = dataclasses.replace(config.model, vocab_size=len(corpus.vocabulary))
    config = dataclasses.replace(config, model=model_config)
    if Run.exists(folder):
        run = Run.open(folder)
        run.resume(config, corpus.fingerprint)
    else:
        run = Run.create(folder, config, corpus.fingerprint, corpus.vocabulary)
    lock = run.lock()
    try:
        _train(run, corpus, prepared / "validation", init_from, progress)
    finally:
        lock.close()
    return run


def _train(run, corpus, validation_folder, init_from, progress):
    config = run.config
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
    recorder.say(_describe(corpus, batches, state))
    evaluate = _evaluation(model, config, validation_folder)

    def micro_batches(step):
        return tuple(batches.batch(step * accumulate + i) for i in range(accumulate))

    def save(state, step, scores):
        score = None
        if scores:
            best = config.train.best_metric
            score = scores["validation_bleu"] if best == "bleu" else -scores["validation_loss"]
        metadata = {"pending": recorder.pending, "corpus": run.corpus_fingerprint}
        checkpoints.save(step, state_items(state), metadata, score)

    def is_epoch_end(step):
        # The epoch of the first batch not yet seen differs from that of the last one seen.
        done = step * accumulate
        return batches.epoch_of(done) != batches.epoch_of(done - accumulate)

    prefetch = Prefetch(micro_batches, first, config.train.steps)
    try:
        state = train_loop(
            state,
            jit_step(functions),
            prefetch,
            config.train,
            recorder,
            evaluate=evaluate,
            save=save,
            is_epoch_end=is_epoch_end,
            waited=lambda: prefetch.waited,
        )
        checkpoints.wait()
        template = jax.eval_shape(lambda s: s.params, state)
        run.average(checkpoints, template, config.train.average_last)
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
            log.warning("%s; trying an older one", error)
            continue
        checkpoints.discard_after(step)
        return state_of(items), meta["pending"]
    if checkpoints.steps():
        raise RunError(f"{run.folder} has no sound checkpoint to go on from")
    state = jax.jit(functions.init)(rng)
    if init_from is not None:
        other = Run.open(init_from)
        if other.config.model != run.config.model:
            raise RunError(f"--init-from {init_from}: its model is {other.config.model}")
        params, name = other.load_params(template.params)
        log.warning("starting from %s, %s", init_from, name)
        state = state._replace(params=params, ema=None if state.ema is None else params)
    return state, None


def _evaluation(model, config, folder):
    """state -> scores on the prepared validation text; nothing where there is none."""
    if not folder.is_dir():
        return lambda state: {}
    corpus = Corpus.open(folder)
    batches = Batches(corpus, dataclasses.replace(config.data, num_shapes=8), seed=0)
    evaluate = make_evaluation(model)

    def scores(state):
        params = state.evaluation_params
        found = evaluate(params, batches.once())
        if config.train.best_metric == "bleu":
            found["bleu"] = _greedy_bleu(model, params, corpus, corpus.vocabulary)
        return {f"validation_{name}": value for name, value in found.items()}

    return scores


def _greedy_bleu(model, params, corpus: Corpus, vocabulary: Vocabulary) -> float:
    sources, references = (list(_sentences(side)) for side in (corpus.source, corpus.target))
    found = Inference(model, params).translate(sources, Search(method="greedy"))
    hypotheses = [vocabulary.decode(best[0].ids) for best in found]
    return sacre_score("BLEU", hypotheses, [vocabulary.decode(r) for r in references]).value


def _sentences(side) -> Iterator[list[int]]:
    start = 0
    for end in side.ends:
        yield side.tokens[start : end - 1].tolist()
        start = end


def _describe(corpus, batches, state):
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return (
        f"{len(corpus)} sentence pairs, vocabulary {len(corpus.vocabulary)}, "
        f"{parameters:,} parameters, {batches.batches_before(1)} batches an epoch in "
        f"{len(batches.shapes)} shapes, {batches.padding_share():.1%} padding, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
    )
