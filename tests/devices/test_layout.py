"""Every way to run a step, on virtual devices, against one device."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.small_job import configuration, read_jsonl
from transformer_jax import ModelConfig, OptimizerConfig, TrainConfig, Transformer, presets
from transformer_jax import train as train_run
from transformer_jax.data.batching import Batch, BatchShape
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.devices.layout import Layout, make_layout
from transformer_jax.devices.traffic import collective_traffic
from transformer_jax.errors import UserError
from transformer_jax.evaluation.evaluate import make_evaluation
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.items import state_from_items, state_to_items
from transformer_jax.tasks import Task
from transformer_jax.training.fingerprint import fingerprints
from transformer_jax.training.runners import (
    MeshRunner,
    PmapRunner,
    SingleDeviceRunner,
    make_runner,
)
from transformer_jax.training.step import GradientSums

# V, D, F, H and the lengths are sizes that cannot be taken for one another.
MODEL = ModelConfig(vocab_size=40, d_model=16, d_ff=24, num_heads=4, num_layers=1, dropout=0.0)
OPTIMIZER = OptimizerConfig(warmup_steps=10)
SHAPE = BatchShape(16, 7, 6)
STEPS = 20
WAYS = {
    "pmap 4": (PmapRunner, (4, 1, 1)),
    "pmap 8": (PmapRunner, (8, 1, 1)),
    "mesh 4x1x1": (MeshRunner, (4, 1, 1)),
    "mesh 8x1x1": (MeshRunner, (8, 1, 1)),
    "mesh 1x8x1": (MeshRunner, (1, 8, 1)),
    "mesh 2x2x2": (MeshRunner, (2, 2, 2)),
    "mesh 1x1x4": (MeshRunner, (1, 1, 4)),
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
    return Task().step_functions(Transformer(model), OPTIMIZER, seed=0)


@functools.cache
def runner(way, model=MODEL):
    kind, sizes = WAYS.get(way, (SingleDeviceRunner, (1, 1, 1)))
    return kind(functions(model), Layout(jax.devices()[: math.prod(sizes)], *sizes))


def start(step):
    shardings = step.layout.shardings(step._functions.shapes(), step._functions.axes())
    return jax.jit(step._functions.init, out_shardings=shardings)(jax.random.key(0))


def train(step, steps=STEPS, accumulate=1):
    """(losses a token, the state in the end) of steps on batches of unequal parts."""
    state, losses = start(step), []
    for n in range(0, steps * accumulate, accumulate):
        placed = [step.place_batch(batch(n + i)) for i in range(accumulate)]
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
        assert parts.counted == sums.counted
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
    state = jax.device_put(state, step.layout.shardings(state, step._functions.axes()))
    added = step._first_micro_batch(state, step.place_batch(batch(0)))
    total = step._jit(lambda sums: step._reduce_sums(sums), ("sums",), "metrics", donate=False)
    return GradientSums(*jax.device_get(total(added)))


@pytest.mark.parametrize("way", ["pmap 4", "mesh 4x1x1"])
def test_step_equals_one_device(way):
    check_agreement(way)


@pytest.mark.parametrize("way", ["jit", "mesh 4x1x1"])
def test_step_compiles_once_per_shape_and_donates_state(way):
    """Also a state that was restored: its places are those that the step pins."""
    step = runner(way)
    before = start(step)
    state, _ = step(before, [step.place_batch(batch(0))])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    axes = step._functions.axes()
    placed = jax.device_put(jax.device_get(state), step.layout.shardings(state, axes))
    for again in (state, placed):
        after, _ = step(again, [step.place_batch(batch(1))])
        specs = jax.tree.map(lambda leaf: leaf.sharding.spec, after)
        assert way == "jit" or specs == step.layout.specs(after, axes)
    assert step._full_step._jitted._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap 8", "mesh 8x1x1", "mesh 1x8x1", "mesh 2x2x2", "mesh 1x1x4"])
def test_step_equals_one_device_on_every_layout(way):
    check_agreement(way)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap 8", "mesh 2x2x2"])
def test_step_with_micro_batches_and_dropout_equals_one_device(way):
    check_agreement(way, replace(MODEL, dropout=0.3), accumulate=3)


class MeanOfMeans(PmapRunner):
    """What Flax's WMT example does: right only where all devices have as many tokens."""

    def _reduce_sums(self, sums):
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(sums.counted, 1.0), sums)
        return jax.lax.pmean(mean, "devices")


def test_agreement_check_detects_a_mean_of_means(monkeypatch):
    monkeypatch.setitem(WAYS, "wrong", (MeanOfMeans, (4, 1, 1)))
    with pytest.raises(AssertionError):
        check_agreement("wrong")


def test_parameters_have_shardings():
    """Base: each leaf is cut as the letters beside it say."""
    functions = Task().step_functions(Transformer(presets.base(vocab_size=64)), OPTIMIZER, 0)
    layout = Layout(jax.devices(), 2, 2, 2)
    specs = layout.specs(functions.shapes(), functions.axes())
    found = {
        name: tuple(specs.params[part] if part == name else specs.params["decoder_0"][part][name])
        for part, name in [
            ("embedding", "embedding"),
            ("cross_attention_norm", "gain"),
            ("feed_forward", "kernel_in"),
            ("feed_forward", "kernel_out"),
            ("feed_forward", "bias_in"),
        ]
    }
    assert found == {
        "embedding": ("tensor", "fsdp"),
        "gain": ("fsdp",),
        "kernel_in": ("fsdp", "tensor"),
        "kernel_out": ("tensor", "fsdp"),
        "bias_in": ("tensor",),
    }
    assert specs.opt_state[0].mu == specs.params
    assert tuple(specs.step) == ()
    # A vocabulary that does not divide stays whole.
    odd = Layout(jax.devices(), 1, 1, 8).specs({"e": jnp.zeros((13, 16))}, {"e": P("V", "D")})
    assert tuple(odd["e"]) == (None, None)


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ({"mesh": "data=16"}, {}, r"mesh data=16 needs 16 devices, there are 8"),
        ({"mesh": "fsdp=4,tensor=4"}, {}, r"mesh data=1,fsdp=4,tensor=4 needs 16 devices"),
        (
            {"mesh": "tensor=8"},
            {},
            r"num_heads 4 is not divisible by the 8 devices of mesh axis ten",
        ),
        ({"mesh": "tensor=4"}, {"d_ff": 6}, r"d_ff 6 is not divisible by the 4"),
        ({"mesh": "fsdp=8"}, {"d_model": 12}, r"d_model 12 is not divisible by the 8"),
        ({"mesh": "fsdp=3"}, {}, r"mesh fsdp=3 has 3 devices, which do not divide the 8 there are"),
        (
            {"mesh": "model=8"},
            {},
            r"'model=8' is invalid; write for example data=2,fsdp=2,tensor=2",
        ),
        ({"mesh": "data=2,data=4"}, {}, r"'data=4' is invalid"),
        ({"mesh": "data=0"}, {}, r"'data=0' is invalid"),
        ({"mesh": "data=8", "parallel": "pmap"}, {}, r"mesh data=8 belongs to --parallel mesh"),
    ],
)
def test_layout_rejects_sizes_that_do_not_divide(options, model, message):
    with pytest.raises(UserError, match=message):
        make_layout(replace(MODEL, **model), TrainConfig(**options))


def test_layout_from_options():
    def sizes(**options):
        return make_layout(MODEL, TrainConfig(**options)).sizes

    eight = {"data": 8, "fsdp": 1, "tensor": 1}
    assert sizes() == sizes(parallel="mesh") == sizes(parallel="pmap") == eight
    assert sizes(parallel="jit") == {**eight, "data": 1}
    assert sizes(mesh="fsdp=2,tensor=2") == {"data": 2, "fsdp": 2, "tensor": 2}
    assert sizes(mesh="data=2") == {**eight, "data": 2}
    one = Layout(jax.devices()[:1])
    kinds = [type(make_runner(p, functions(), one)) for p in ("auto", "jit", "pmap")]
    assert kinds == [SingleDeviceRunner, SingleDeviceRunner, PmapRunner]
    assert type(make_runner("auto", functions(), Layout(jax.devices()[:2], 2))) is MeshRunner


def test_batch_rows_are_padded_to_the_devices():
    layout = Layout(jax.devices()[:4], 2, 2)
    assert layout.local_rows(np.array([7, 5, 3])).tolist() == [7, 5, 3, -1]
    full = np.arange(8)
    assert layout.local_rows(full) is not full and layout.local_rows(full).tolist() == full.tolist()


def test_state_is_divided_among_devices():
    """A state cut along fsdp: an eighth on each device, and 2 per cent at most beside."""
    model = Transformer(replace(MODEL, d_model=64, vocab_size=8000))
    functions = Task().step_functions(model, OPTIMIZER, 0)
    for sizes, share in (((1, 8, 1), 1 / 8), ((2, 2, 2), 1 / 4), ((8, 1, 1), 1)):
        step = MeshRunner(functions, Layout(jax.devices(), *sizes))
        state = start(step)
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        kept = [0] * 8
        for leaf in jax.tree.leaves(state):
            for shard in leaf.addressable_shards:
                kept[shard.device.id] += shard.data.nbytes
        assert share * whole <= kept[0] <= 1.02 * share * whole
        assert set(kept) == {step.state_bytes}
    # Base, whose arrays need not be made: what has no D is a thousandth.
    functions = Task().step_functions(Transformer(presets.base()), OPTIMIZER, 0)
    whole, cut = (MeshRunner(functions, Layout(jax.devices(), 1, n)).state_bytes for n in (1, 8))
    assert whole / 8 <= cut <= 1.02 * whole / 8


def test_traffic_of_data_parallel_is_the_gradient_once():
    """With the loss and the number of tokens; the table is used three times and travels once."""
    step = runner("mesh 4x1x1")
    params = step._functions.shapes().params
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    found = collective_traffic(step.lower(SHAPE).compile(), step.layout)
    assert found == {("all-reduce", ("data",)): (found["all-reduce", ("data",)].calls, size + 8)}


@pytest.mark.slow
def test_traffic_of_fsdp_is_the_parameters_twice():
    """Gathered once, their gradients scattered once; only what has no D is reduced whole."""
    step = runner("mesh 1x8x1")
    leaves = jax.tree.leaves(step._functions.shapes().params)
    letters = jax.tree.leaves(step._functions.axes().params)
    cut = sum(x.size * 4 for x, spec in zip(leaves, letters) if "D" in spec)
    rest = sum(x.size * 4 for x in leaves) - cut
    found = collective_traffic(step.lower(SHAPE).compile(), step.layout)
    assert found["all-gather", ("fsdp",)].bytes == cut
    assert found["reduce-scatter", ("fsdp",)].bytes == cut
    # The loss, tokens and the norm of the gradient's parts come with the rest.
    assert rest < found["all-reduce", ("fsdp",)].bytes <= rest + 8 + 4 * len(leaves)
    assert {kind for kind, _ in found} == {"all-gather", "reduce-scatter", "all-reduce"}


def test_evaluation_counts_every_sentence_once():
    params = {"params": start(runner("jit")).params}
    layout = Layout(jax.devices(), 2, 2, 2)
    one = make_evaluation(Transformer(MODEL), Layout(jax.devices()[:1]))
    many = make_evaluation(Transformer(MODEL), layout)
    # 13 rows, of which eight devices need 16.
    batches = [Batch(*(rows[:13] for rows in batch(n))) for n in range(2)]
    filled = [
        Batch(*(np.pad(rows, ((0, 3),) + ((0, 0),) * (rows.ndim - 1)) for rows in each))
        for each in batches
    ]
    wanted = one(params, batches)
    axes = {"params": functions().axes().params}
    found = many(jax.device_put(params, layout.shardings(params, axes)), filled)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


@pytest.mark.parametrize(
    "search", [Search(), pytest.param(Search(method="sample", seed=3), marks=pytest.mark.slow)]
)
def test_translation_equals_one_device(search):
    params = {"params": jax.tree.map(lambda leaf: 3 * leaf, start(runner("jit")).params)}
    layout = Layout(jax.devices(), 2, 2, 2)
    axes = {"params": functions().axes().params}
    placed = jax.device_put(params, layout.shardings(params, axes))
    rng = np.random.default_rng(0)
    sources = [rng.integers(4, MODEL.vocab_size, rng.integers(1, 9)).tolist() for _ in range(21)]
    one = BatchDecoder(Transformer(MODEL), params)
    many = BatchDecoder(Transformer(MODEL), placed, layout=layout)
    # So few at once that devices take others when sentences are finished.
    search = search.with_options(batch_tokens=32)
    wanted, found = (side.translate(sources * 2, search) for side in (one, many))
    assert [[h.ids for h in each] for each in found] == [[h.ids for h in each] for each in wanted]
    scores = [side.score(sources, sources) for side in (one, many)]
    for a, b in zip(*scores):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.slow
def test_checkpoint_restores_on_another_layout(tmp_path):
    """What one layout saved another reads, leaf by leaf the same, and resumes alike."""
    _, state = train(runner("mesh 2x2x2"), steps=3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state_to_items(state), {})
    checkpoints.wait()
    saved = fingerprints(state_to_items(state))
    following = []
    for way in ("jit", "pmap 8", "mesh 8x1x1", "mesh 1x8x1", "mesh 1x1x4"):
        step = runner(way)
        template = step.layout.restore_template(step._functions.shapes(), step._functions.axes())
        items, _ = checkpoints.restore(3, state_to_items(template))
        assert fingerprints(items) == saved
        _, metrics = step(state_from_items(items), [step.place_batch(batch(9))])
        following.append(float(metrics["loss_sum"]))
    np.testing.assert_allclose(following, following[0], rtol=1e-4)


@pytest.mark.slow
def test_step_of_other_models_equals_one_device():
    """All at once: additive attention, learned positions, three tables of a vocabulary that tensor
    does not divide, every dropout."""
    model = replace(
        MODEL, vocab_size=41, attention_score="additive", position_encoding="learned",
        max_positions=16, tied_embeddings="none", norm_placement="pre", dropout=0.2,
        attention_dropout=0.2, activation_dropout=0.2,
    )  # fmt: skip
    check_agreement("mesh 2x2x2", model, accumulate=3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"parallel": "pmap"}, {"mesh": "fsdp=2,tensor=2"}])
def test_job_resumes_on_a_mesh(tmp_path, options):
    """Saved, restored, evaluated by loss and BLEU, and averaged: as on one device."""
    config = configuration(tmp_path, best_metric="bleu", log_every=1)
    optimizer = replace(config.optimizer, ema_decay=0.9, accumulation_steps=2)
    config = replace(config, optimizer=optimizer)

    def run(name, steps, **options):
        options = {"parallel": "auto", **options, "steps": steps}
        changed = replace(config, train=replace(config.train, **options))
        return train_run(changed, tmp_path / name, progress=False)

    run("many", 9, **options)
    many, one = run("many", 15, **options), run("one", 15, parallel="jit")
    assert "averaged/15: intact" in describe_run(many.folder)
    records = [read_jsonl(side.folder / "metrics.jsonl") for side in (many, one)]
    assert "validation_bleu" in records[0][-1]
    for name in ("loss", "validation_loss"):
        found, wanted = ({r["step"]: r[name] for r in rs if name in r} for rs in records)
        assert wanted.keys() <= found.keys()
        for step, value in wanted.items():
            np.testing.assert_allclose(found[step], value, rtol=1e-4)
