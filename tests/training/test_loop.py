"""The order in which the loop dispatches steps and reads their metrics."""

from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import TrainConfig
from transformer_jax.training.loop import train_loop
from transformer_jax.training.metrics import NullMetricsWriter


class State(NamedTuple):
    step: int


class Recorder(NullMetricsWriter):
    """A step and a writer that tell what was done, in order."""

    def __init__(self):
        self.done = []

    def take(self, state: Any, batch: int):
        self.done.append(("dispatch", state.step + 1))
        return State(state.step + 1), {"consecutive_skips": np.int32(0)}

    def write_step(self, step, metrics, input_wait):
        self.done.append(("read", step))


def test_first_metrics_are_read_at_once_and_later_ones_a_step_behind():
    """The step after the first may have to be compiled; the others are to keep the device busy."""
    recorder = Recorder()
    config = TrainConfig(steps=7, evaluate_every=100, checkpoint_every=100)
    first: Any = State(3)
    train_loop(first, recorder.take, range(4), config, recorder)
    dispatched = [("dispatch", step) for step in (4, 5, 6, 7)]
    read = [("read", step) for step in (4, 5, 6, 7)]
    assert recorder.done == [
        dispatched[0], read[0], dispatched[1],
        dispatched[2], read[1], dispatched[3], read[2], read[3],
    ]  # fmt: skip
