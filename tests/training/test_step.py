import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import reference
from transformer_jax import ModelConfig, OptimizerConfig, RunConfig, Transformer, functional
from transformer_jax.data.batching import Batch
from transformer_jax.data.pairing import Pairing
from transformer_jax.devices.layout import Layout
from transformer_jax.run.average import mean_tree
from transformer_jax.tasks import Task
from transformer_jax.training import fingerprint
from transformer_jax.training.fingerprint import fingerprints
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.runners import MeshRunner, PmapRunner, SingleDeviceRunner
from transformer_jax.training.schedule import make_schedule, warmup_schedule
from transformer_jax.training.state import create_state
from transformer_jax.training.step import GradientSums, make_step
from transformer_jax.visualization.schedule import rates

MODEL = ModelConfig(vocab_size=13, d_model=8, d_ff=12, num_heads=2, num_layers=1, dropout=0.0)
OPTIMIZER = OptimizerConfig(warmup_steps=10)


def batch(rows, length, seed=0, padding=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 13, (2, rows, length)).astype(np.int32)
    tokens[:, :, length - padding :] = 0
    tokens[:, :, length - padding - 1] = 1
    return Batch(tokens[0], tokens[1], np.arange(rows))


@functools.cache
def made(model, optimizer, seed):
    functions = Task().step_functions(Transformer(model), optimizer, seed)
    return functions, jax.device_get(jax.jit(functions.init)(jax.random.key(seed)))


def start(model=MODEL, optimizer=OPTIMIZER, seed=0):
    """Functions of a step and a state of one's own, which may be donated."""
    functions, state = made(model, optimizer, seed)
    return functions, jax.tree.map(jnp.array, state)


def test_schedule_is_equation_3_counted_from_one():
    schedule = warmup_schedule(512, 4000)
    for step in (1, 10, 3999, 4000, 4001, 100_000):
        expected = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        np.testing.assert_allclose(schedule(step - 1), expected, rtol=1e-6)
    np.testing.assert_allclose(warmup_schedule(512, 4000)(3999), 6.99e-4, rtol=1e-3)
    np.testing.assert_allclose(warmup_schedule(1024, 4000)(3999), 4.94e-4, rtol=1e-3)
    np.testing.assert_allclose(warmup_schedule(512, 4000, 2.0)(0), 2 * schedule(0), rtol=1e-6)


@pytest.mark.gpu
def test_adam_matches_numpy_for_three_updates():
    """The key biases are left out: their true gradient is zero and Adam blows up the rounding."""
    functions, state = start()
    gradients, rates = [], [8**-0.5 * n * 10**-1.5 for n in (1, 2, 3)]
    step = jax.jit(lambda s, b: (functions.gradients(s.params, {}, b, jax.random.key(0)), s))
    update = jax.jit(functions.update)
    before = state.params
    for n in range(3):
        sums, _ = step(state, batch(3, 5, seed=n, padding=n))
        tokens = 3 * (5 - n)
        assert sums.counted == tokens
        gradients.append(jax.tree.map(lambda g, k=tokens: np.asarray(g, np.float64) / k, sums[0]))
        state, metrics = update(state, sums)
        np.testing.assert_allclose(metrics["learning_rate"], rates[n], rtol=1e-6)
    assert state.step == 3
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        if "'key'" in str(path) and "bias" in str(path):
            continue
        grads = [dict(jax.tree_util.tree_leaves_with_path(g))[path] for g in gradients]
        expected = reference.adam(np.asarray(leaf, np.float64), grads, rates)
        found = dict(jax.tree_util.tree_leaves_with_path(state.params))[path]
        np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=str(path))


@pytest.mark.gpu
def test_micro_batches_add_up_to_the_whole_batch():
    """Unequal token counts: a mean of the parts' means would differ."""
    parts = (batch(2, 5, seed=1), batch(2, 5, seed=2, padding=3))
    whole = Batch(*(np.concatenate(pair) for pair in zip(*parts)))
    functions, state = start()
    gradients = jax.jit(functions.gradients)
    key = jax.random.key(0)
    one = gradients(state.params, {}, whole, key)
    first, second = (gradients(state.params, {}, part, key) for part in parts)
    added = jax.tree.map(jnp.add, first, second)
    assert added.counted == one.counted == 14
    mean_of_means = jax.tree.map(
        lambda a, b: (a / 10 + b / 4) / 2, first.gradients, second.gradients
    )
    for a, b, wrong in zip(*map(jax.tree.leaves, (added[0], one[0], mean_of_means))):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))
        if float(jnp.abs(b).max()) > 1e-3:
            assert not np.allclose(wrong, b / 14, atol=1e-5)
    accumulated, metrics = SingleDeviceRunner(functions)(start()[1], parts)
    stepped, expected = SingleDeviceRunner(functions)(start()[1], (whole,))
    np.testing.assert_allclose(metrics["loss_sum"], expected["loss_sum"], rtol=1e-6)
    np.testing.assert_allclose(
        accumulated.params["embedding"], stepped.params["embedding"], atol=1e-5
    )


def test_nonfinite_gradient_changes_only_the_counters():
    functions, state = start(optimizer=replace(OPTIMIZER, ema_decay=0.5))
    sums = jax.jit(functions.gradients)(state.params, {}, batch(2, 4), jax.random.key(0))
    bad = sums._replace(gradients=jax.tree.map(lambda g: g.at[...].set(jnp.nan), sums.gradients))
    update = jax.jit(functions.update)
    once, metrics = update(state, bad)
    twice, metrics = update(once, bad)
    assert (metrics["skipped"], metrics["consecutive_skips"]) == (2, 2)
    assert fingerprints((twice.params, twice.opt_state, twice.ema)) == fingerprints(
        (state.params, state.opt_state, state.ema)
    )
    good, metrics = update(twice, sums)
    assert (good.step, metrics["skipped"], metrics["consecutive_skips"]) == (3, 2, 0)
    # The schedule has not moved on: this is the first update.
    np.testing.assert_allclose(metrics["learning_rate"], 8**-0.5 * 10**-1.5, rtol=1e-6)
    assert fingerprints(good.params) != fingerprints(state.params)


def test_clipping_and_moving_average():
    clipped = replace(OPTIMIZER, clip_norm=1e-3, ema_decay=0.9)
    functions, state = start(optimizer=clipped)
    after, metrics = SingleDeviceRunner(functions)(state, (batch(2, 4),))
    assert metrics["gradient_norm"] > 1e-3
    _, state = start(optimizer=clipped)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.params, after.params)
    for found, wanted in zip(jax.tree.leaves(after.ema), jax.tree.leaves(expected)):
        np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert after.evaluation_variables["params"] is after.ema
    mu = jax.tree.leaves(after.opt_state)
    norm = np.sqrt(sum(float(jnp.sum((m / 0.1) ** 2)) for m in mu[1 : 1 + len(mu) // 2]))
    np.testing.assert_allclose(norm, 1e-3, rtol=1e-3)


def test_schedule_is_applied_and_logged(monkeypatch):
    """Were it replaced, the update, the log and the picture would follow it."""

    def flat(*arguments):
        return lambda count: 0.25 + 0 * count

    monkeypatch.setattr("transformer_jax.training.schedule.warmup_schedule", flat)
    functions = Task().step_functions(Transformer(MODEL), OPTIMIZER, seed=0)
    state = functions.init(jax.random.key(0))
    ones = jax.tree.map(jnp.ones_like, state.params)
    after, metrics = functions.update(
        state, GradientSums(ones, jnp.float32(1), jnp.float32(1), {}, {})
    )
    assert metrics["learning_rate"] == 0.25
    moved = jax.tree.map(lambda new, old: old - new, after.params, state.params)
    # Adam's first step is the learning rate long in every entry.
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_allclose(leaf, 0.25, rtol=1e-3)
    assert {rate for _, rate in rates(RunConfig())} == {0.25}


def test_epsilon_is_that_of_section_5_3():
    """A gradient of 1e-8 moves by rate * 1e-8 / (1e-8 + 1e-9), not by half the rate."""
    config = OptimizerConfig(warmup_steps=1)
    optimizer = make_optimizer(config, make_schedule(config, d_model=1))
    params = jnp.zeros(1)
    updates, _ = optimizer.update(jnp.full(1, 1e-8), optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-1 / 1.1], rtol=1e-4)


def test_padding_rows_add_nothing():
    b = batch(4, 6)
    functions, state = start()
    padded = Batch(*(np.pad(x, ((0, 3),) + ((0, 0),) * (x.ndim - 1)) for x in b))
    rng = jax.random.key(0)
    one, other = (jax.jit(functions.gradients)(state.params, {}, x, rng) for x in (b, padded))
    assert one.counted == other.counted
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)
    for found, wanted in zip(jax.tree.leaves(other.gradients), jax.tree.leaves(one.gradients)):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_dropout_changes_with_the_step_and_repeats_with_the_seed():
    functions, state = start(replace(MODEL, dropout=0.3))
    keys = [functions.rng(state._replace(step=jnp.array(n)), m) for n in (0, 1) for m in (0, 1)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 4

    def losses():
        step, state = SingleDeviceRunner(functions), start(replace(MODEL, dropout=0.3))[1]
        out = []
        for _ in range(2):
            state, metrics = step(state, (batch(2, 4),))
            out.append(float(metrics["loss_sum"]))
        return out

    assert losses() == losses()


def test_training_learns_to_copy():
    functions, state = start(optimizer=OptimizerConfig(warmup_steps=40, label_smoothing=0.0))
    step = SingleDeviceRunner(functions)
    for n in range(900):
        b = batch(16, 4, seed=n % 7)
        state, metrics = step(state, (b._replace(target=b.source),))
        loss = float(metrics["loss_sum"]) / float(metrics["tokens"])
    assert loss < 0.1


@pytest.mark.gpu
def test_fingerprints_see_every_bit_and_place():
    base = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([1, 2], jnp.bfloat16)}
    prints = fingerprints(base)
    assert prints == fingerprints(jax.tree.map(jnp.copy, base))
    assert prints != fingerprints({**base, "a": base["a"].at[1, 2].add(1e-6)})
    assert prints["['a']"] != fingerprints({"a": base["a"][::-1]})["['a']"]
    assert prints["['a']"] != fingerprints({"a": -base["a"]})["['a']"]


def test_fingerprints_are_murmur_finalised_words_and_places():
    """Checkpoints hold these numbers: another formula would call every old one damaged."""

    def finalise(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    def expected(words):
        mixed = [finalise(w ^ finalise((n + 0x9E3779B9) % 2**32)) for n, w in enumerate(words)]
        return f"{sum(mixed) % 2**32:08x}"

    # IEEE 754: 1.0, -2.0 and 0.5 as float32 words, 1.0 and 2.0 as bfloat16 words.
    tree = {
        "a": jnp.array([[1.0], [-2.0], [0.5]]),
        "b": jnp.array([1, 2], jnp.bfloat16),
        "c": jnp.array([True, False]),
    }
    assert fingerprints(tree) == {
        "['a']": expected([0x3F800000, 0xC0000000, 0x3F000000]),
        "['b']": expected([0x3F80, 0x4000]),
        "['c']": expected([1, 0]),
    }


def test_fingerprints_do_not_depend_on_the_devices(monkeypatch):
    base = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": jnp.array([1, 2], jnp.bfloat16),
        "more than are mixed at once": jnp.arange(40_000, dtype=jnp.int32).reshape(20, 2000),
    }
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    in_memory = fingerprints(base)
    assert fingerprints({**base, "a": np.arange(6.0).reshape(2, 3)}) == in_memory
    assert fingerprints(jax.device_put(base, sharding)) == in_memory
    # As for arrays of an accelerator, or of several processes.
    monkeypatch.setattr(fingerprint, "_is_in_memory", lambda leaf: False)
    monkeypatch.setattr(fingerprint, "_fingerprint_in_memory", None)
    assert fingerprints(base) == fingerprints(jax.device_put(base, sharding)) == in_memory


def test_average():
    trees = [{"w": jnp.full(3, float(n))} for n in (1, 2, 6)]
    np.testing.assert_array_equal(mean_tree(trees)["w"], np.full(3, 3.0))
    with pytest.raises(ValueError, match="no parameters"):
        mean_tree([])


def test_loss_reported_is_per_token_and_smoothed():
    functions, state = start()
    b = batch(2, 4, padding=1)
    logits = jax.jit(Transformer(MODEL).apply)({"params": state.params}, b.source, b.target)
    expected, tokens = functional.label_smoothed_cross_entropy(logits, jnp.asarray(b.target), 0.1)
    _, metrics = SingleDeviceRunner(functions)(state, (b,))
    np.testing.assert_allclose(metrics["loss_sum"], expected, rtol=1e-5)
    assert metrics["tokens"] == tokens == 6


def test_evaluation_takes_the_moving_average_where_one_is_kept():
    state = create_state({"w": jnp.zeros(2)}, optax.sgd(0.1), ema=True)
    state = state._replace(ema={"w": jnp.ones(2)})
    np.testing.assert_array_equal(state.evaluation_variables["params"]["w"], 1)
    without = create_state({"w": jnp.zeros(2)}, optax.sgd(0.1), ema=False)
    np.testing.assert_array_equal(without.evaluation_variables["params"]["w"], 0)


def test_step_ignores_the_default_generator():
    def found():
        functions = Task().step_functions(
            Transformer(replace(MODEL, dropout=0.5)), OPTIMIZER, seed=3
        )
        state = jax.jit(functions.init)(functional.seed_key(3))
        rng = functions.rng(state, 0)
        sums = jax.jit(functions.gradients)(state.params, {}, batch(4, 6), rng)
        return state.params, sums

    expected = found()
    with jax.default_prng_impl("rbg"):
        jax.tree.map(np.testing.assert_array_equal, found(), expected)


@pytest.mark.parametrize("way", [SingleDeviceRunner, MeshRunner])
def test_logits_in_blocks_train_equally(way):
    layout = Layout(jax.devices(), 2, 2) if way is MeshRunner else Layout(jax.devices()[:1])
    found = []
    for block in (None, 3):
        optimizer = replace(OPTIMIZER, logits_block=block)
        functions = Task().step_functions(Transformer(MODEL), optimizer, seed=0)
        step = way(functions, layout)
        places = jax.tree.map(lambda leaf: leaf.sharding, step.template)
        state = jax.jit(functions.init, out_shardings=places)(jax.random.key(0))
        state, metrics = step(state, [step.place_batch(batch(8, 5, padding=1))])
        found.append((metrics["loss_sum"], metrics["tokens"], metrics["gradient_norm"]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_ignored_class_is_read_as_padding():
    class Other(Task):
        pairing = Pairing(ignored=-1)

    padded = batch(2, 5, padding=3)
    other = padded._replace(target=np.where(padded.target == 0, -1, padded.target))
    found = []
    for task, given in ((Task(), padded), (Other(), other)):
        functions = task.step_functions(Transformer(MODEL), OPTIMIZER)
        params = functions.init(jax.random.key(0)).params
        found.append(jax.jit(functions.gradients)(params, {}, given, jax.random.key(0)))
        evaluate = task.evaluation(Transformer(MODEL), Layout(jax.devices()[:1]))
        found.append(evaluate({"params": params}, [given]))
    assert found[0].counted == 4
    jax.tree.map(np.testing.assert_array_equal, found[:2], found[2:])


def test_sums_are_float32_and_a_state_keeps_its_dtypes():
    """Parameters and losses of bfloat16, as an own model may have."""

    def loss_fn(params, collections, batch, rng):
        return jnp.sum((params["w"] - batch) ** 2), batch.size, {"n": batch.size}, collections

    init = lambda rng: {"params": {"w": jnp.zeros((), jnp.bfloat16)}}  # noqa: E731
    functions = make_step(init, loss_fn, optax.adam(0.1))
    state = functions.init(jax.random.key(0))
    rows = jnp.ones(3, jnp.bfloat16)
    sums = functions.gradients(state.params, {}, rows, jax.random.key(0))
    assert {sums.loss.dtype, sums.counted.dtype, sums.metrics["n"].dtype} == {jnp.dtype("float32")}
    after, _ = functions.update(state, sums)
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(each)] for each in (after, state)]
    assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize("way", [SingleDeviceRunner, PmapRunner, MeshRunner])
def test_runners_place_batches_of_any_tree(way):
    def loss_fn(params, collections, batch, rng):
        error = params["w"][None] - batch["x"]
        return jnp.sum(error**2), jnp.float32(len(error)), {}, collections

    sizes = {SingleDeviceRunner: (1, 1), PmapRunner: (4, 1), MeshRunner: (2, 2)}[way]
    functions = make_step(lambda rng: {"params": {"w": jnp.zeros(3)}}, loss_fn, optax.sgd(0.5))
    layout = Layout(jax.devices()[: sizes[0] * sizes[1]], sizes[0] * sizes[1])
    step = way(functions, layout)
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    state, metrics = step(functions.init(jax.random.key(0)), [step.place_batch({"x": x})])
    np.testing.assert_allclose(state.params["w"], x.mean(0), rtol=1e-6)
    assert metrics["tokens"] == 8
