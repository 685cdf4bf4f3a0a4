"""Own models, losses, optimizers and arrays: the package as a library, without a run folder."""

import itertools
import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.extensions import Lstm
from tests.small_job import configuration, read_jsonl
from transformer_jax import ModelConfig, TrainConfig, Transformer
from transformer_jax.decoding.generate import generate
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.run.train import train
from transformer_jax.tasks import TASKS, TranslationTask
from transformer_jax.training.loop import train_loop
from transformer_jax.training.metrics import MetricsWriter
from transformer_jax.training.runners import SingleDeviceRunner
from transformer_jax.training.step import make_step


class Classifier(nn.Module):
    """Somebody else's: of what is in the row, one of three classes, 0 one of them."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.tanh(nn.Dense(16)(x)))


def own_steps():
    model = Classifier()

    def loss_fn(params, collections, batch, rng):
        x, classes = batch
        logits = model.apply({"params": params}, x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, classes).sum()
        right = jnp.sum(logits.argmax(-1) == classes, dtype=jnp.float32)
        return loss, jnp.float32(len(classes)), {"accuracy": right}, collections

    with jax.numpy_rank_promotion("allow"):  # Flax's Dense needs it
        return make_step(
            lambda rng: model.init(rng, jnp.zeros((1, 4))), loss_fn, optax.sgd(0.1, momentum=0.9)
        )


def own_batches():
    rng = np.random.default_rng(0)
    while True:
        x = rng.normal(size=(32, 4)).astype(np.float32)
        yield [(x, (x[:, :3].argmax(-1)).astype(np.int32))]


def test_own_model_loss_optimizer_and_arrays_through_the_loop():
    functions = own_steps()
    records = []
    with jax.numpy_rank_promotion("allow"):
        writer = MetricsWriter(
            None, log_every=20, total_steps=100, progress=False, on_record=records.append
        )
        state = train_loop(
            functions.init(jax.random.key(0)),
            SingleDeviceRunner(functions),
            own_batches(),
            TrainConfig(steps=100),
            writer,
        )
        assert int(state.step) == 100  # the batches never end
        again = train_loop(
            state, SingleDeviceRunner(functions), own_batches(), TrainConfig(steps=100)
        )
    assert again is state
    assert [record["step"] for record in records] == [20, 40, 60, 80, 100]
    assert records[-1]["accuracy"] > 0.8 > records[0]["accuracy"]
    assert records[-1]["loss"] < records[0]["loss"]
    assert "learning_rate" not in records[0]  # nothing says what it is


def test_metric_names_of_every_record_are_reserved():
    def loss_fn(params, collections, batch, rng):
        return params["w"].sum(), jnp.float32(1), {"tokens": jnp.float32(1)}, collections

    functions = make_step(lambda rng: {"params": {"w": jnp.ones(2)}}, loss_fn, optax.sgd(0.1))
    with pytest.raises(ValueError, match="a metric cannot be named tokens"):
        SingleDeviceRunner(functions)(functions.init(jax.random.key(0)), [jnp.zeros(1)])


class Counting(TranslationTask):
    """Translation that counts targets of EOS while it trains."""

    def loss(self, model, config):
        inner = super().loss(model, config)

        def loss_fn(params, collections, batch, rng):
            loss, count, _, after = inner(params, collections, batch, rng)
            ends = jnp.sum(batch.target == 1, dtype=jnp.float32)
            return loss, count, {"ends": ends}, after

        return loss_fn


def test_metric_sums_reach_records_tensorboard_and_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "translation", Counting())
    config = configuration(tmp_path, steps=12, log_every=5, checkpoint_every=6)
    seen = []
    whole = train(config, tmp_path / "whole", progress=False, on_record=seen.append)
    records = read_jsonl(whole.folder / "metrics.jsonl")
    assert seen == records
    shares = [record["ends"] for record in records if "ends" in record]
    assert len(shares) == 2 and all(0.1 < share < 0.6 for share in shares)
    board = EventAccumulator(str(whole.folder / "tensorboard"))
    board.Reload()
    np.testing.assert_allclose([e.value for e in board.Scalars("ends")], shares, rtol=1e-6)
    unlogged = whole.checkpoints(read_only=True).metadata(6)["unlogged_sums"]
    assert set(unlogged) == {"loss", "tokens", "ends"} and unlogged["ends"] > 0
    # Interrupted in the middle of a record it resumes to the same.
    first = replace(config, train=replace(config.train, steps=7))
    train(first, tmp_path / "parts", progress=False)
    parts = train(config, tmp_path / "parts", progress=False)
    others = read_jsonl(parts.folder / "metrics.jsonl")
    assert [r for r in others if "ends" in r] == [r for r in records if "ends" in r]


def test_callback_failure_is_reported_once_and_ends_nothing(tmp_path, caplog):
    calls = itertools.count()

    def fail(record):
        next(calls)
        raise RuntimeError("my dashboard is gone")

    with caplog.at_level(logging.WARNING):
        run = train(
            configuration(tmp_path, steps=12), tmp_path / "run", progress=False, on_record=fail
        )
    assert next(calls) == 1
    told = [message for message in caplog.messages if "on_record" in message]
    assert told == [
        "on_record failed and is not called again: RuntimeError('my dashboard is gone')"
    ]
    assert [r["step"] for r in read_jsonl(run.folder / "metrics.jsonl") if "loss" in r] == [5, 10]


CONFIG = ModelConfig(vocab_size=13, d_model=16, d_ff=24, num_heads=2, num_layers=1, dropout=0.0)
SEARCHES = [
    Search(beam_size=3, n_best=2, extra_length=4),
    Search(method="greedy", extra_length=4),
    Search(method="sample", n_best=2, extra_length=4, seed=3),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.method)
@pytest.mark.parametrize("model", [Transformer(CONFIG), Lstm(CONFIG)], ids=["transformer", "lstm"])
def test_generate_equals_translator(model, search):
    source = jnp.array([[4, 5, 6, 1], [7, 1, 0, 0]])
    params = jax.jit(model.init)(jax.random.key(3), source, source)["params"]
    limits = jnp.array([3, 1]) + search.extra_length
    found = generate(model, params, source, search, limits=limits)
    assert found.tokens.shape == (2, search.n_best, 4 + search.extra_length)
    if isinstance(model, Transformer):
        wanted = BatchDecoder(model, {"params": params}).translate([[4, 5, 6], [7]], search)
        for row, hypotheses in enumerate(wanted):
            rows = sorted(
                zip(found.scores[row], found.tokens[row], found.lengths[row]), key=lambda r: -r[0]
            )
            for (score, tokens, length), best in zip(rows, hypotheses):
                assert tokens[: length - 1].tolist() == best.ids
                np.testing.assert_allclose(score, best.score, rtol=1e-4)
    ends = jnp.take_along_axis(found.tokens, found.lengths[..., None] - 1, axis=2)
    assert (ends == 1).all() and (found.lengths <= limits[:, None]).all()
