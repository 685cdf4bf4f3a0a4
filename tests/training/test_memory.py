"""What a step needs is known beforehand, and updates are cut to fit it."""

from dataclasses import replace

import jax
import jax.monitoring
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.small_job import configuration
from transformer_jax import build_model, presets
from transformer_jax.config import ModelConfig, OptimizerConfig, RunConfig
from transformer_jax.data.batching import Batches, BatchShape
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.preparation import prepare
from transformer_jax.devices.layout import Layout
from transformer_jax.errors import UserError
from transformer_jax.models.transformer import Transformer
from transformer_jax.run.train import train
from transformer_jax.tasks import Task
from transformer_jax.training import memory
from transformer_jax.training.runners import SingleDeviceRunner


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A configuration whose model and batches have some size, and its prepared corpus."""
    folder = tmp_path_factory.mktemp("memory")
    config = configuration(folder)
    prepare(config.data, 100, folder / "corpus")
    corpus = Corpus.open(folder / "corpus" / "train")
    model = replace(config.model, vocab_size=len(corpus.vocabularies.source))
    data = replace(config.data, batch_tokens=2048, max_batch_shapes=1)
    return replace(config, model=model, data=data), corpus


def step_functions(config):
    return Task().step_functions(Transformer(config.model), config.optimizer, 0)


def needed(config, corpus):
    step = SingleDeviceRunner(step_functions(config))
    return memory.largest_step_memory(step, config, Batches(corpus, config.data, 0).shapes)


def test_memory_of_the_state_is_exact_and_the_rest_grows_with_the_batch(job):
    config, corpus = job
    config = replace(config, model=replace(config.model, kernels="definition"))
    state = step_functions(config).shapes()
    exact = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    shape, whole = needed(config, corpus)
    assert whole.persistent == exact
    assert shape == Batches(corpus, config.data, 0).shapes[0]
    logits = shape.rows * shape.target * config.model.vocab_size * 4
    assert whole.temporary > 2 * logits  # the logits and their gradient at least
    half = replace(config, data=replace(config.data, batch_tokens=1024))
    assert needed(half, corpus)[1].temporary == pytest.approx(whole.temporary / 2, rel=0.1)


@pytest.fixture
def program_cache(tmp_path):
    """An empty cache of compiled programs; gives the events that JAX reports of it."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    events: list[str] = []

    def listen(event: str, **_) -> None:
        events.append(event)

    for name, value in zip(names, (True, str(tmp_path), 0.0)):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.monitoring.register_event_listener(listen)
    yield events
    jax.monitoring.unregister_event_listener(listen)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.slow
def test_step_from_the_cache_has_the_memory_of_a_compiled_one(job, program_cache):
    """So that --fit-memory gives the same batches on a second start."""
    config, corpus = job
    compiled, hits = needed(config, corpus), "/jax/compilation_cache/cache_hits"
    assert hits not in program_cache
    jax.clear_caches()
    assert needed(config, corpus) == compiled
    assert hits in program_cache


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernels, rows, length",
    [
        ("definition", 8, 256),
        ("compact", 64, 32),
        ("compact", 4, 512),
        ("blockwise", 4, 512),
        ("blockwise", 1, 4096),
    ],
)
def test_memory_is_estimated_within_15_percent(kernels, rows, length):
    """Of a step, as the compiler reports it: what sentences keep, and what parameters do."""
    model = replace(presets.base(8000), num_layers=2, kernels=kernels)
    config = RunConfig(model=model)
    step = SingleDeviceRunner(Task().step_functions(Transformer(model)))
    shape = BatchShape(rows, length, length)
    estimate, found = memory.estimate_step_memory(step, config, shape), step.memory(shape, 1)
    assert estimate.persistent == found.persistent
    assert estimate.temporary == pytest.approx(found.temporary, rel=0.15)


SMALL = {"num_layers": 2, "d_model": 64, "vocab_size": 500}
ROUGHLY = {
    "one sentence": (ModelConfig(**SMALL, kernels="compact"), BatchShape(1, 256, 256)),
    "remat": (ModelConfig(**SMALL, remat="layers"), BatchShape(16, 64, 64)),
    "bfloat16": (ModelConfig(**SMALL, dtype="bfloat16"), BatchShape(16, 64, 64)),
    "restricted": (ModelConfig(**SMALL, attention_radius=4), BatchShape(16, 64, 64)),
    "window of words": (ModelConfig(**SMALL, cross_attention_radius=0), BatchShape(16, 64, 64)),
    **{
        name: (
            ModelConfig(**SMALL, architecture=name, num_heads=1, attention_score=score),
            BatchShape(16, 64, 64),
        )
        for name, score in (("rnn", "additive"), ("lstm", "additive"), ("convolutional", "scaled"))
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUGHLY)
def test_no_step_needs_three_times_its_estimate(name):
    """What is estimated to need a quarter of the memory is not compiled before the first step."""
    model, shape = ROUGHLY[name]
    for accumulation_steps in (1, 2):
        optimizer = OptimizerConfig(accumulation_steps=accumulation_steps)
        config = RunConfig(model=model, optimizer=optimizer)
        step = SingleDeviceRunner(Task().step_functions(build_model(model), optimizer))
        estimate = memory.estimate_step_memory(step, config, shape)
        found = step.memory(shape, accumulation_steps)
        assert estimate.persistent == pytest.approx(found.persistent, rel=1e-3)
        assert found.temporary < 3 * estimate.temporary


@pytest.mark.slow
def test_largest_shape_needs_most_memory(job):
    config, _ = job
    step = SingleDeviceRunner(step_functions(config))
    shapes = [BatchShape(8, 64, 64), BatchShape(128, 4, 4), BatchShape(16, 8, 32)]
    sizes = {shape: sum(memory.largest_step_memory(step, config, [shape])[1]) for shape in shapes}
    assert memory.largest_shape(shapes, config.model) == max(sizes, key=sizes.get)


@pytest.mark.slow
def test_fit_memory_uses_the_fewest_micro_batches(job, monkeypatch):
    config, corpus = job
    limit = 0.4 * sum(needed(config, corpus)[1])
    monkeypatch.setattr(memory, "device_memory", lambda: limit / memory.USABLE_MEMORY_FRACTION)
    layout, functions = Layout(jax.devices()[:1]), step_functions(config)
    fitted = memory.fit_batches(config, corpus, layout, functions)
    accumulate = fitted.optimizer.accumulation_steps
    assert fitted.data.batch_tokens == 2048 // accumulate
    assert sum(needed(fitted, corpus)[1]) <= limit
    fewer = replace(
        config,
        data=replace(config.data, batch_tokens=2048 // (accumulate - 1)),
        optimizer=replace(config.optimizer, accumulation_steps=accumulate - 1),
    )
    assert sum(needed(fewer, corpus)[1]) > limit
    monkeypatch.setattr(memory, "device_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"128 x 16 tokens an update: .* max_length 16 allows no"):
        memory.fit_batches(config, corpus, Layout(jax.devices()[:1]), step_functions(config))


@pytest.mark.slow
def test_fit_memory_run_resumes_with_its_first_command(job, monkeypatch, tmp_path):
    config, corpus = job
    config = replace(config, train=replace(config.train, steps=1))
    limit = 0.6 * sum(needed(config, corpus)[1])
    monkeypatch.setattr(memory, "device_memory", lambda: limit / memory.USABLE_MEMORY_FRACTION)
    run = train(config, tmp_path / "run", fit_memory=True, progress=False)
    assert run.config.optimizer.accumulation_steps > 1
    config = replace(config, train=replace(config.train, steps=2))
    again = train(config, tmp_path / "run", fit_memory=True, progress=False)
    assert again.config.data == run.config.data


def test_memory_too_large_is_refused_before_the_first_step(job, monkeypatch, caplog):
    config, corpus = job
    step = SingleDeviceRunner(step_functions(config))
    shapes = Batches(corpus, config.data, 0).shapes
    whole = sum(needed(config, corpus)[1])
    monkeypatch.setattr(memory, "device_memory", lambda: whole)
    monkeypatch.setattr(memory, "free_memory", lambda: whole)
    assert "a step on it needs" in memory.check_step_memory(step, config, shapes)
    assert "may be killed" not in caplog.text
    monkeypatch.setattr(memory, "free_memory", lambda: whole - 1)
    memory.check_step_memory(step, config, shapes)
    assert "free, so the job may be killed: lower batch_tokens 2048" in caplog.text
    monkeypatch.setattr(memory, "device_memory", lambda: whole - 1)
    with pytest.raises(UserError, match="lower batch_tokens 2048, as --fit-memory does"):
        memory.check_step_memory(step, config, shapes)
    matrices = step_functions(config).shapes().params
    least = 12 * sum(leaf.size for leaf in jax.tree.leaves(matrices) if leaf.ndim > 1)
    monkeypatch.setattr(memory, "device_memory", lambda: least)
    memory.check_model(config.model, step.layout)
    monkeypatch.setattr(memory, "device_memory", lambda: least - 1)
    with pytest.raises(UserError, match="d_model 16, d_ff 32 and 1 \\+ 1 layers needs"):
        memory.check_model(config.model, step.layout)


def test_step_that_needs_little_is_not_compiled_before_it_runs(job, monkeypatch):
    config, corpus = job
    step = SingleDeviceRunner(step_functions(config))
    shapes = Batches(corpus, config.data, 0).shapes
    estimate = sum(memory.estimate_step_memory(step, config, shapes[0]))
    monkeypatch.setattr(memory, "free_memory", lambda: 10**12)
    monkeypatch.setattr(memory, "device_memory", lambda: 4 * estimate + 4)
    line = memory.check_step_memory(step, config, shapes)
    assert f"a step on it needs about {memory.format_bytes(estimate)} of" in line
    assert not step._full_step._compiled
    monkeypatch.setattr(memory, "device_memory", lambda: 4 * estimate - 4)
    assert "compiled in" in memory.check_step_memory(step, config, shapes)
    assert len(step._full_step._compiled) == 1
    # The machine's free memory counts as much as all of it.
    monkeypatch.setattr(memory, "device_memory", lambda: 10**12)
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * estimate)
    assert "compiled in" in memory.check_step_memory(step, config, shapes)


def test_oom_becomes_user_error():
    with (
        pytest.raises(UserError, match="does not hold a step of batch_tokens 77: start with fewer"),
        memory.oom_as_user_error(77),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.oom_as_user_error(77):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
