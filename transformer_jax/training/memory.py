"""The memory that a step needs, known before the first one, and batches that fit what there is."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from transformer_jax.config import ModelConfig, RunConfig
from transformer_jax.data.batching import Batches, Shape
from transformer_jax.data.corpus import Corpus
from transformer_jax.errors import UserError
from transformer_jax.models.families import family_of
from transformer_jax.parallel import Layout
from transformer_jax.training.runners import JitStep, Memory, make_runner
from transformer_jax.training.step import StepFunctions

__all__ = [
    "check_model",
    "device_memory",
    "explained",
    "fit_memory",
    "format_bytes",
    "largest",
    "needed",
    "told",
]

log = logging.getLogger(__name__)

# Of the device's memory; the rest is for batches on their way, evaluation and fragmentation.
SHARE = 0.9


def device_memory() -> int:
    """Bytes of the first device; on a CPU those of the machine, or of its container."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return machine


def check_model(model: ModelConfig, layout: Layout) -> None:
    """UserError where the matrices of a model and Adam's two moments of them exceed the devices.

    Arithmetic alone: what is far too large could not even be described as shapes.
    """
    width = model.d_model
    least = 3 * 4 * family_of(model).parameters(model)
    least //= layout.sizes["fsdp"] * layout.sizes["tensor"]
    if least > device_memory():
        raise UserError(
            f"a model of d_model {width}, d_ff {model.d_ff} and num_layers {model.num_layers} "
            f"needs {format_bytes(least)} a device to train, a device has "
            f"{format_bytes(device_memory())}: take a smaller one"
        )


def format_bytes(size: float) -> str:
    """
    >>> format_bytes(1_500_000_000), format_bytes(42_000)
    ('1.50 GB', '0.04 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def largest(shapes: Sequence[Shape], model: ModelConfig) -> Shape:
    """The shape whose step keeps most numbers, as the model's family counts them.

    >>> largest([Shape(8, 16, 16), Shape(64, 2, 2)], ModelConfig())
    Shape(rows=8, source=16, target=16)
    """

    family = family_of(model)
    return max(shapes, key=lambda s: s.rows * family.activations(model, s.source, s.target))


def needed(step: JitStep, config: RunConfig, shapes: Sequence[Shape]) -> tuple[Shape, Memory]:
    """The largest of the shapes, and what a step on it needs; it is compiled for that."""
    shape = largest(shapes, config.model)
    return shape, step.memory(shape, config.optimizer.accumulate)


def fit_memory(
    config: RunConfig, corpus: Corpus, layout: Layout, functions: StepFunctions
) -> RunConfig:
    """`config` with each update cut into as few batches as leave a step within the device.

    An update sees about as many tokens as were asked for (rows are whole): batch_tokens falls as
    accumulate rises. Each candidate is compiled; UserError where not even a batch of one sentence
    fits.
    """
    limit = SHARE * device_memory()
    step = make_runner(config.train.parallel, functions, layout)
    tokens = config.data.batch_tokens * config.optimizer.accumulate
    most = tokens // config.data.max_length
    accumulate = 1
    while True:
        tried = replace(
            config,
            data=replace(config.data, batch_tokens=tokens // accumulate),
            optimizer=replace(config.optimizer, accumulate=accumulate),
        )
        shapes = Batches(corpus, tried.data, config.train.seed).shapes
        memory = needed(step, tried, shapes)[1]
        line = (
            f"{accumulate} x {tried.data.batch_tokens} tokens an update: a step needs "
            f"{format_bytes(sum(memory))} of {format_bytes(device_memory())}"
        )
        if sum(memory) <= limit:
            log.info("%s", line)
            return tried
        if accumulate == most:
            raise UserError(
                f"{line}, more than {SHARE:.0%}, and max_length {config.data.max_length} allows no "
                "smaller batch: lower it, or take a smaller model"
            )
        room = limit - memory.kept
        parts = memory.temporary / room if room > 0 else math.inf
        accumulate = int(min(max(accumulate + 1, accumulate * parts), most))


def told(step: JitStep, config: RunConfig, shapes: Sequence[Shape]) -> str:
    """A line on the largest batch and its memory; UserError where the device has less."""
    check_model(config.model, step.layout)
    start = time.perf_counter()
    shape, memory = needed(step, config, shapes)
    sizes = f"{format_bytes(sum(memory))} of {format_bytes(device_memory())}"
    if sum(memory) > device_memory():
        raise UserError(
            f"a step on {shape.rows} sentences of {shape.source} + {shape.target} tokens needs "
            f"{sizes}: lower batch_tokens {config.data.batch_tokens}, as --fit-memory does"
        )
    return (
        f"largest batch: {shape.rows} sentences of {shape.source} + {shape.target} tokens, "
        f"compiled in {time.perf_counter() - start:.0f} s; a step on it needs {sizes}"
    )


@contextlib.contextmanager
def explained(tokens: int) -> Iterator[None]:
    """A device without memory is something a user can mend."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device's memory ({format_bytes(device_memory())}) does not hold a step of "
            f"batch_tokens {tokens}: start with fewer and more --accumulate, as --fit-memory does"
        ) from None
