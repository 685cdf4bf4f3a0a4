"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import jax

__all__ = ["trace_steps"]

T = TypeVar("T")

# Steps before a trace begins: the first of each shape compiles.
WARMUP_STEPS = 3


def trace_steps(batches: Iterable[T], folder: Path, steps: int) -> Iterator[T]:
    """Yield `batches` while a profiler trace of some steps on them is written.

    The step of a batch has ended by the time that the second batch after it is asked for, because
    `train_loop` reads the metrics of all steps but the newest.

    Args:
        batches: What the steps take.
        folder: Folder to write the trace to.
        steps: Steps to trace, after a few that compile.
    """
    tracing = False

    def stop():
        nonlocal tracing
        if tracing:
            tracing = False
            jax.profiler.stop_trace()

    try:
        for number, batch in enumerate(batches):
            if number == WARMUP_STEPS:
                jax.profiler.start_trace(str(folder))
                tracing = True
            if number == WARMUP_STEPS + steps + 1:
                stop()
            yield batch
    finally:
        stop()
