"""Parameters that keep their values while the others are trained."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.test_step import MODEL, OPTIMIZER, batch, start
from transformer_jax import OptimizerConfig, RunConfig, TrainConfig
from transformer_jax.devices.layout import Layout
from transformer_jax.errors import UserError
from transformer_jax.training.frozen import select_frozen
from transformer_jax.training.runners import MeshRunner, SingleDeviceRunner
from transformer_jax.training.schedule import make_schedule
from transformer_jax.training.step import make_step
from transformer_jax.visualization.schedule import rates

FROZEN = replace(OPTIMIZER, frozen=("embedding", "encoder_*/self_attention"))


def named(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_frozen(name):
    return name == "embedding" or name.startswith("encoder_0/self_attention/")


@pytest.mark.parametrize("way", ["jit", "mesh"])
def test_frozen_parameters_keep_their_values_and_others_are_trained(way):
    """The others' updates are those of a training of all, as Adam's are each entry's own."""
    functions, state = start(optimizer=FROZEN)
    layout = Layout(jax.devices()[:4], fsdp=2)
    runner = SingleDeviceRunner(functions) if way == "jit" else MeshRunner(functions, layout)
    before = named(jax.device_get(state.params))
    data = batch(8, 5)
    whole, _ = start()
    gradients = named(
        whole.gradients(
            state.params, {}, jax.tree.map(jnp.asarray, data), jax.random.key(0)
        ).gradients
    )
    copy = jax.tree.map(jnp.array, state)
    every = named(jax.device_get(SingleDeviceRunner(whole)(copy, [data])[0].params))
    placed = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, runner.template))
    after, metrics = runner(placed, [runner.place_batch(data)])
    params = named(jax.device_get(after.params))
    moved = {name for name in before if not np.array_equal(before[name], params[name])}
    # What attention does not depend on, the bias of keys, has the gradient of rounding alone.
    keys = {name for name in before if name.endswith("key/bias")}
    assert moved - keys == {name for name in before if not is_frozen(name)} - keys
    counted = float(metrics["tokens"])
    for name in params:
        if not is_frozen(name) and name not in keys:
            np.testing.assert_allclose(params[name], every[name], rtol=1e-5, atol=1e-7)
    squares = sum(
        float(np.square(gradients[n] / counted).sum()) for n in gradients if not is_frozen(n)
    )
    np.testing.assert_allclose(float(metrics["gradient_norm"]), squares**0.5, rtol=1e-5)


def test_parameters_frozen_later_stay_where_moments_and_weight_decay_would_move_them():
    def loss_fn(params, collections, batch, rng):
        return jnp.sum((params["a"] + params["b"] - batch) ** 2), jnp.float32(1), {}, collections

    def step(frozen):
        init = lambda rng: {"params": {"a": jnp.ones(2), "b": jnp.ones(2)}}  # noqa: E731
        return make_step(init, loss_fn, optax.adamw(0.1, weight_decay=0.1), frozen=frozen)

    def move(functions, state):
        rng = jax.random.key(0)
        return functions.update(state, functions.gradients(state.params, {}, jnp.zeros(2), rng))[0]

    state = move(step(()), step(()).init(jax.random.key(0)))
    assert float(state.params["a"][0]) < 1
    later = move(step(("a",)), state)
    assert jnp.array_equal(later.params["a"], state.params["a"])
    assert float(later.params["b"][0]) < float(state.params["b"][0])


def test_names_of_frozen_parameters():
    functions, _ = start()
    shapes = functions.shapes().params

    def found(*names):
        return {name for name, frozen in named(select_frozen(shapes, names)).items() if frozen}

    assert found("embedding") == {"embedding"}
    assert found("decoder_0/self_attention/key", "*/gain") == (
        {"decoder_0/self_attention/key/bias", "decoder_0/self_attention/key/kernel"}
        | {name for name in named(shapes) if name.endswith("/gain")}
    )
    assert all(name.startswith("encoder_0/") for name in found("encoder_0"))
    with pytest.raises(UserError, match=r"frozen 'decoder' is no part of the model; did you mean "):
        found("embedding", "decoder")
    with pytest.raises(
        UserError, match=r"frozen 'x' is no part of the model; known: decoder_0, em"
    ):
        found("x")
    with pytest.raises(
        UserError, match=r"frozen \*: that is all of the model, and nothing is left"
    ):
        found("*")


def test_schedules_of_fine_tuning():
    """Linear to the peak; then it stays, or falls as step^-0.5 from there."""
    tuning = OptimizerConfig(peak_learning_rate=3e-4, warmup_steps=100)
    paper = make_schedule(tuning, d_model=512)
    constant = make_schedule(replace(tuning, schedule="constant"), d_model=64)
    for step in (1, 50, 100):
        for schedule in (paper, constant):
            np.testing.assert_allclose(schedule(step - 1), 3e-4 * step / 100, rtol=1e-6)
    for step in (101, 400, 10_000):
        np.testing.assert_allclose(paper(step - 1), 3e-4 * (100 / step) ** 0.5, rtol=1e-6)
        np.testing.assert_allclose(constant(step - 1), 3e-4, rtol=1e-6)
    with pytest.raises(UserError, match=r"lr_factor 7.0 and peak_learning_rate 0.0003 both"):
        replace(tuning, lr_factor=7.0)
    of_paper = make_schedule(OptimizerConfig(schedule="constant", warmup_steps=4000), d_model=512)
    np.testing.assert_allclose(of_paper(99_999), (512 * 4000) ** -0.5, rtol=1e-6)
    shown = rates(RunConfig(MODEL, replace(tuning, schedule="constant"), train=TrainConfig(200)))
    assert shown[-1] == (200, pytest.approx(3e-4)) and shown[0] == (1, pytest.approx(3e-6))
