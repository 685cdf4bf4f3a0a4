"""Every way to run a step, on virtual devices, against one device."""

import functools
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from transformer_jax import ModelConfig, OptimizerConfig, Transformer
from transformer_jax.data.batching import Batch, Shape
from transformer_jax.parallel import Layout
from transformer_jax.training.runners import JitStep, MeshStep, PmapStep
from transformer_jax.training.step import Sums, make_step

# V, D, F, H and the lengths are sizes that cannot be taken for one another.
MODEL = ModelConfig(vocab_size=40, d_model=16, d_ff=24, num_heads=4, num_layers=1, dropout=0.0)
OPTIMIZER = OptimizerConfig(warmup_steps=10)
SHAPE = Shape(16, 7, 6)
STEPS = 20
WAYS = {
    "pmap 2": (PmapStep, (2, 1, 1)),
    "pmap 4": (PmapStep, (4, 1, 1)),
    "pmap 8": (PmapStep, (8, 1, 1)),
    "mesh 4x1x1": (MeshStep, (4, 1, 1)),
    "mesh 8x1x1": (MeshStep, (8, 1, 1)),
    "mesh 1x8x1": (MeshStep, (1, 8, 1)),
    "mesh 2x2x2": (MeshStep, (2, 2, 2)),
    "mesh 1x1x4": (MeshStep, (1, 1, 4)),
}


def batch(number):
    """Rows of rising length, so that devices get from a few to many tokens; one row is empty."""
    rng = np.random.default_rng(number)
    rows, source, target = SHAPE
    sides = [rng.integers(4, MODEL.vocab_size, (rows, size), np.int32) for size in (source, target)]
    for side in sides:
        for row, tokens in enumerate(side):
            end = row * side.shape[1] // rows
            tokens[end], tokens[end + 1 :] = 1, 0
    sides[1][rows - 3] = 0
    return Batch(sides[0], sides[1], np.arange(rows, dtype=np.int32) + 100 * number)


@functools.cache
def functions(model=MODEL):
    return make_step(Transformer(model), OPTIMIZER, seed=0)


@functools.cache
def runner(way, model=MODEL):
    kind, sizes = WAYS.get(way, (JitStep, (1, 1, 1)))
    return kind(functions(model), Layout(jax.devices()[: math.prod(sizes)], *sizes))


def start(step):
    shardings = step.layout.shardings(step._functions.shapes())
    return jax.jit(step._functions.init, out_shardings=shardings)(jax.random.key(0))


def train(step, steps=STEPS, accumulate=1):
    """(losses a token, the state in the end) of steps on batches of unequal parts."""
    state, losses = start(step), []
    for n in range(0, steps * accumulate, accumulate):
        placed = [step.place(batch(n + i)) for i in range(accumulate)]
        state, metrics = step(state, placed)
        losses.append(float(metrics["loss_sum"]) / float(metrics["tokens"]))
    return np.array(losses), state


@functools.cache
def alone(model=MODEL, accumulate=1, steps=STEPS):
    """What one device finds."""
    losses, state = train(runner("jit", model), steps, accumulate)
    return losses, jax.device_get(state), jax.device_get(start(runner("jit", model)).params)


def leaves(tree):
    """Name -> array, without key biases: their true gradient is zero, Adam blows up rounding."""
    found = ((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree))
    return {name: np.asarray(x) for name, x in found if not name.endswith("['key']['bias']")}


def check_agreement(way, model=MODEL, accumulate=1):
    wanted, end, before = alone(model, accumulate)
    losses, state = train(runner(way, model), accumulate=accumulate)
    assert wanted[-1] < wanted[0] - 0.3  # it moves
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    first, found, last = leaves(before), leaves(jax.device_get(state.params)), leaves(end.params)
    for name, leaf in found.items():
        moved = np.linalg.norm(last[name] - first[name])
        assert np.linalg.norm(leaf - last[name]) <= 1e-3 * moved, name
    # The same from the state of one device, where that is after the first and before the last step.
    for params in (before, end.params):
        sums = gradients("jit", model, params)
        parts = gradients(way, model, params)
        assert parts.tokens == sums.tokens
        np.testing.assert_allclose(parts.loss, sums.loss, rtol=1e-5)
        largest = max(np.abs(leaf).max() for leaf in leaves(sums.gradients).values())
        for name, leaf in leaves(parts.gradients).items():
            np.testing.assert_allclose(
                leaf, leaves(sums.gradients)[name], atol=1e-5 * largest, err_msg=name
            )


def gradients(way, model, params):
    """The sums of one batch, added up as the runner does."""
    step = runner(way, model)
    state = start(step)._replace(params=jax.device_put(params))
    state = jax.device_put(state, step.layout.shardings(state))
    added = step._first(state, step.place(batch(0)))
    total = step._compiled(lambda sums: step._total(sums), ("sums",), "metrics", donate=False)
    return Sums(*jax.device_get(total(added)))


@pytest.mark.parametrize("way", ["pmap 4", "mesh 4x1x1"])
def test_as_on_one_device(way):
    check_agreement(way)


needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@needs_eight
@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "mesh 4x1x1"])
def test_as_on_one_device_in_every_way(way):
    check_agreement(way)
    check_agreement(way, accumulate=3)
    check_agreement(way, replace(MODEL, dropout=0.3))
