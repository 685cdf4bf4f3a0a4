"""The memory that a step needs, known before the first step, and batches that fit the device."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax

from transformer_jax.config import ModelConfig, RunConfig
from transformer_jax.data.batching import Batches, BatchShape
from transformer_jax.data.corpus import Corpus
from transformer_jax.devices.layout import Layout
from transformer_jax.devices.memory import device_memory, format_bytes, free_memory
from transformer_jax.devices.processes import broadcast_from_first
from transformer_jax.errors import UserError
from transformer_jax.models.families import family_of
from transformer_jax.training.runners import Runner, StepMemory, make_runner
from transformer_jax.training.step import StepFunctions

__all__ = [
    "check_model",
    "check_step_memory",
    "estimate_step_memory",
    "fit_batches",
    "largest_shape",
    "largest_step_memory",
    "oom_as_user_error",
]

log = logging.getLogger(__name__)

# Of the device's memory; the rest is for batches on their way, evaluation and fragmentation.
USABLE_MEMORY_FRACTION = 0.9
# Of it, what a step may need by arithmetic alone. Where it needs more, it is compiled to know.
ESTIMATED_MEMORY_FRACTION = 0.25


def check_model(model: ModelConfig, layout: Layout) -> None:
    """Raise UserError for kernels that the devices lack, and where a model's matrices and Adam's
    two moments exceed their memory.

    This is arithmetic alone: models that are far too large could not even be described as shapes.
    """
    platform = layout.mesh.devices.flat[0].platform
    if model.kernels == "cudnn" and platform != "gpu":
        raise UserError(
            f"kernels 'cudnn' needs a CUDA device, and this one is a {platform}: choose compact"
        )
    width = model.d_model
    least = 3 * 4 * family_of(model).estimate_parameters(model)
    least //= layout.sizes["fsdp"] * layout.sizes["tensor"]
    if least > device_memory():
        raise UserError(
            f"a model of d_model {width}, d_ff {model.d_ff} and {model.encoder_depth} + "
            f"{model.decoder_depth} layers needs {format_bytes(least)} per device to train, but a "
            f"device has {format_bytes(device_memory())}: use a smaller model"
        )


def largest_shape(shapes: Sequence[BatchShape], model: ModelConfig) -> BatchShape:
    """Choose the shape whose step keeps the most numbers, as the model's family counts them.

    Args:
        shapes: Shapes of batches.
        model: The model's configuration.

    >>> largest_shape([BatchShape(8, 16, 16), BatchShape(64, 2, 2)], ModelConfig())
    BatchShape(rows=8, source=16, target=16)
    """

    family = family_of(model)
    return max(
        shapes, key=lambda s: s.rows * family.estimate_activations(model, s.source, s.target)
    )


def largest_step_memory(
    step: Runner, config: RunConfig, shapes: Sequence[BatchShape]
) -> tuple[BatchShape, StepMemory]:
    """Measure what a step on the largest shape needs; the step is compiled for that.

    Args:
        step: The runner.
        config: The run's configuration.
        shapes: Shapes of batches.

    Returns:
        The largest shape, and the memory of a step on it.
    """
    shape = largest_shape(shapes, config.model)
    return shape, step.memory(shape, config.optimizer.accumulation_steps)


def estimate_step_memory(step: Runner, config: RunConfig, shape: BatchShape) -> StepMemory:
    """Estimate what a step needs, by arithmetic alone; nothing is compiled.

    Args:
        step: The runner.
        config: The run's configuration.
        shape: Shape of its batches.
    """
    # Both are fitted to what XLA reports (`models.families`).
    rows = -(-shape.rows // step.layout.shards)
    kept = rows * family_of(config.model).estimate_activations(
        config.model, shape.source, shape.target
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(step.template.params))
    sums = 0 if config.optimizer.accumulation_steps == 1 else 4 * parameters
    return StepMemory(step.state_bytes + sums, round(4 * (kept + 0.6 * parameters)))


def fit_batches(
    config: RunConfig, corpus: Corpus, layout: Layout, functions: StepFunctions
) -> RunConfig:
    """Divide each update into as few batches as leave a step within the device's memory.

    An update keeps about as many tokens as were asked for (rows are whole): batch_tokens falls as
    accumulation_steps rises. Each candidate is compiled.

    Args:
        config: The run's configuration.
        corpus: The prepared training text.
        layout: The devices.
        functions: The step functions.

    Returns:
        The configuration with other batch_tokens and accumulation_steps.

    Raises:
        UserError: Not even a batch of one sentence fits.
    """
    limit = USABLE_MEMORY_FRACTION * device_memory()
    tokens = config.data.batch_tokens * config.optimizer.accumulation_steps
    most = tokens // config.data.max_length
    accumulate = 1
    while True:
        tried = replace(
            config,
            data=replace(config.data, batch_tokens=tokens // accumulate),
            optimizer=replace(config.optimizer, accumulation_steps=accumulate),
        )
        shapes = Batches(corpus, tried.data, config.train.seed).shapes
        # A runner keeps what it has compiled.
        step = make_runner(config.train.parallel, functions, layout)
        memory = largest_step_memory(step, tried, shapes)[1]
        line = (
            f"{accumulate} x {tried.data.batch_tokens} tokens an update: a step needs "
            f"{format_bytes(sum(memory))} of {format_bytes(device_memory())}"
        )
        if sum(memory) <= limit:
            log.info("%s", line)
            return tried
        if accumulate == most:
            raise UserError(
                f"{line}, more than {USABLE_MEMORY_FRACTION:.0%}, and max_length "
                f"{config.data.max_length} allows no smaller batch: lower it, or take a "
                "smaller model"
            )
        room = limit - memory.persistent
        parts = memory.temporary / room if room > 0 else math.inf
        accumulate = int(min(max(accumulate + 1, accumulate * parts), most))


def check_step_memory(step: Runner, config: RunConfig, shapes: Sequence[BatchShape]) -> str:
    """Check that the device's memory holds a step on the largest batch.

    That step is compiled, unless an estimate is a quarter at most of the memory, or of what is free
    of it: then the first step starts sooner.

    Args:
        step: The runner.
        config: The run's configuration.
        shapes: Shapes of batches.

    Returns:
        A line that describes the largest batch and its memory.

    Raises:
        UserError: The device has less memory.
    """
    check_model(config.model, step.layout)
    start = time.perf_counter()
    shape = largest_shape(shapes, config.model)
    memory = estimate_step_memory(step, config, shape)
    free = free_memory()
    how = "a step on it needs about"
    room = min(device_memory(), math.inf if free is None else free)
    # What is free differs between processes: all do as the first does.
    if broadcast_from_first(sum(memory) > ESTIMATED_MEMORY_FRACTION * room):
        memory = step.memory(shape, config.optimizer.accumulation_steps)
        how = f"compiled in {time.perf_counter() - start:.0f} s, a step on it needs"
    sizes = f"{format_bytes(sum(memory))} of {format_bytes(device_memory())}"
    if sum(memory) > device_memory():
        raise UserError(
            f"a step on {shape.rows} sentences of {shape.source} + {shape.target} tokens needs "
            f"{sizes}: lower batch_tokens {config.data.batch_tokens}, as --fit-memory does"
        )
    if free is not None and sum(memory) > free:
        log.warning(
            "a step needs %s and the machine has %s free, so the job may be killed: lower "
            "batch_tokens %d, or end other programs",
            format_bytes(sum(memory)), format_bytes(free), config.data.batch_tokens,
        )  # fmt: skip
    return (
        f"largest batch: {shape.rows} sentences of {shape.source} + {shape.target} tokens; "
        f"{how} {sizes}"
    )


@contextlib.contextmanager
def oom_as_user_error(tokens: int) -> Iterator[None]:
    """Turn an out-of-memory error within this context into a UserError with advice.

    Args:
        tokens: batch_tokens of the run, for the message.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device's memory ({format_bytes(device_memory())}) does not hold a step of "
            f"batch_tokens {tokens}: start with fewer and more --accumulation-steps, as "
            "--fit-memory does"
        ) from None
