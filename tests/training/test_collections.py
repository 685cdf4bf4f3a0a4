"""What a model keeps beside its parameters: running statistics of batch norm, on every runner."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.small_job import configuration, last_fingerprints, read_jsonl
from transformer_jax import ModelConfig, OptimizerConfig, Transformer, Translator
from transformer_jax.data.batching import Batch
from transformer_jax.devices.layout import Layout
from transformer_jax.functional.normalization import batch_statistics
from transformer_jax.run.folder import Run
from transformer_jax.run.items import state_to_items
from transformer_jax.run.train import train
from transformer_jax.run.variables import load_variables
from transformer_jax.tasks import Task
from transformer_jax.training.runners import MeshRunner, PmapRunner, SingleDeviceRunner

MODEL = ModelConfig(
    vocab_size=40, d_model=8, d_ff=16, num_heads=2, num_layers=1, dropout=0.0,
    normalization="batch",
)  # fmt: skip
OPTIMIZER = OptimizerConfig(warmup_steps=8, lr_factor=0.3)
WAYS = {
    "jit": (SingleDeviceRunner, (1, 1, 1)),
    "pmap": (PmapRunner, (4, 1, 1)),
    "mesh": (MeshRunner, (2, 2, 1)),
    "mesh with tensor": (MeshRunner, (1, 2, 2)),
}


def batch(number, rows=8):
    """Sentences of unequal lengths; the last two rows are empty."""
    rng = np.random.default_rng(number)
    sides = [rng.integers(4, 40, (rows, length), np.int32) for length in (6, 5)]
    for side in sides:
        for row, tokens in enumerate(side):
            tokens[2 + row * (side.shape[1] - 2) // rows :] = 0
        side[-2:] = 0
    return Batch(*sides, np.array([*range(rows - 2), -1, -1], np.int32))


def run(way, accumulate=1, steps=2):
    kind, sizes = WAYS[way]
    layout = Layout(jax.devices()[: np.prod(sizes)], *sizes)
    step = kind(Task().step_functions(Transformer(MODEL), OPTIMIZER), layout)
    places = jax.tree.map(lambda leaf: leaf.sharding, step.template)
    state = jax.jit(step._functions.init, out_shardings=places)(jax.random.key(0))
    losses = []
    for n in range(steps):
        placed = [step.place_batch(batch(n * accumulate + i)) for i in range(accumulate)]
        state, metrics = step(state, placed)
        losses.append(float(metrics["loss_sum"]))
    return jax.device_get(state), losses


@pytest.mark.parametrize(
    "way",
    [
        "pmap",
        "mesh",
        pytest.param("mesh with tensor", marks=pytest.mark.slow),
    ],
)
def test_batch_norm_over_devices_is_that_of_the_whole_batch(way):
    """Two micro-batches a step: each sees the statistics of the one before.

    Statistics are compared after the first step. Then biases before a norm, whose true gradient is
    zero, are Adam's noise, which the norm takes out again: losses still agree.
    """
    alone, _ = run("jit", accumulate=2, steps=1)
    shared, _ = run(way, accumulate=2, steps=1)
    for found, wanted in zip(
        jax.tree.leaves(shared.collections), jax.tree.leaves(alone.collections), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run(way)[1], run("jit")[1], rtol=1e-5)


def test_running_statistics_leave_padding_out_and_follow_the_micro_batches():
    """The first norm's input is computed by hand from the parameters at the start."""
    state, _ = run("jit", accumulate=2, steps=1)
    model = Transformer(replace(MODEL, normalization="layer"))
    functions = Task().step_functions(Transformer(MODEL), OPTIMIZER)
    params = functions.init(jax.random.key(0)).params
    mean, variance = np.zeros(8), np.ones(8)
    for number in range(2):
        given = batch(number)
        taken = []

        def before_norm(following, arguments, options, context, taken=taken):
            if context.module.name == "self_attention_norm" and context.method_name == "__call__":
                taken.append(arguments[0])
            return following(*arguments, **options)

        with nn.intercept_methods(before_norm):
            model.apply({"params": params}, jnp.asarray(given.source), method="encode")
        x = np.asarray(taken[0])[given.source != 0]
        mean = 0.9 * mean + 0.1 * x.mean(0)
        variance = 0.9 * variance + 0.1 * x.var(0)
    found = state.collections["batch_statistics"]["encoder_0"]["self_attention_norm"]
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["variance"], variance, rtol=1e-4)


def test_gradients_through_shared_statistics_are_those_of_one_device():
    """By the definition: the loss of all rows, each normalised by the statistics of all."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)

    def loss(x, weights, axis=None):
        mean, variance = batch_statistics(x, axis_name=axis)
        return jnp.sum(weights * (x - mean[None]) / jnp.sqrt(variance + 1e-5)[None])

    whole = jax.grad(loss)(x, weights)
    shared = jax.pmap(lambda x, w: jax.grad(loss)(x, w, "rows"), axis_name="rows")
    parts = shared(x.reshape(4, 2, 3), weights.reshape(4, 2, 3))
    np.testing.assert_allclose(parts.reshape(8, 3), whole, rtol=1e-4, atol=1e-5)


def test_collections_are_unchanged_by_a_skipped_step():
    functions = Task().step_functions(Transformer(MODEL), OPTIMIZER)
    state = jax.jit(functions.init)(jax.random.key(0))
    sums = jax.jit(functions.gradients)(
        state.params, state.collections, batch(0), jax.random.key(0)
    )
    moved = functions.update(state, sums)[0].collections
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (moved, state.collections))))
    spoilt = functions.update(state, sums._replace(loss=jnp.float32(np.nan)))[0].collections
    jax.tree.map(np.testing.assert_array_equal, spoilt, state.collections)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Whole, and stopped and gone on with."""
    folder = tmp_path_factory.mktemp("batch norm")
    config = configuration(folder, steps=24, log_every=4)
    config = replace(
        config,
        model=replace(config.model, normalization="batch"),
        optimizer=replace(config.optimizer, accumulation_steps=2, ema_decay=0.9),
    )
    whole = train(config, folder / "whole", progress=False)
    train(replace(config, train=replace(config.train, steps=10)), folder / "parts", progress=False)
    return whole, train(config, folder / "parts", progress=False)


def test_collections_resume_bit_for_bit_and_are_used_in_translation(runs):
    whole, parts = runs
    prints = last_fingerprints(whole.folder)
    assert prints == last_fingerprints(parts.folder) and "collections" in prints
    losses, others = (
        [r for r in read_jsonl(each.folder / "metrics.jsonl") if "loss" in r] for each in runs
    )
    assert losses == others
    variables, name = load_variables(Run.open(whole.folder), "averaged")
    newest, _ = load_variables(Run.open(whole.folder), "last")
    assert name == "averaged at step 24"
    # Means of parameters with the newest statistics.
    jax.tree.map(
        np.testing.assert_array_equal, variables["batch_statistics"], newest["batch_statistics"]
    )
    moved = zip(*(jax.tree.leaves(each["params"]) for each in (variables, newest)))
    assert any((a != b).any() for a, b in moved)
    translator = Translator.load(whole.folder)
    assert len(translator.translate(["w1 w2", "w3"])) == 2
    # Decoding step by step finds what the whole pass says, by the running statistics.
    [[best]] = translator.translations(["w1 w2 w3"])
    np.testing.assert_allclose(
        translator.score(["w1 w2 w3"], [best.text]), best.log_prob, rtol=1e-4
    )


def test_collections_absent_are_not_saved():
    functions = Task().step_functions(Transformer(replace(MODEL, normalization="layer")), OPTIMIZER)
    assert set(state_to_items(functions.shapes())) == {"params", "optimizer"}
