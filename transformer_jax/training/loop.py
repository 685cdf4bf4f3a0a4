"""The training loop: it owns nothing and is handed data, evaluation and saving."""

import collections
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from transformer_jax.config import TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.training.metrics import Recorder
from transformer_jax.training.state import TrainState

__all__ = ["TrainingDiverged", "train_loop"]


class TrainingDiverged(UserError):
    """Too many steps in a row had gradients that are not finite."""


def train_loop(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    micro_batches: Iterable[Any],
    config: TrainConfig,
    recorder: Recorder,
    *,
    evaluate: Callable[[TrainState], dict[str, float]],
    save: Callable[[TrainState, int, dict[str, float] | None], None],
    is_epoch_end: Callable[[int], bool],
    accumulate: int,
    waited: Callable[[], float],
    stopped: Callable[[int], bool],
) -> TrainState:
    """Train until `config.steps`, or until `stopped` after a step, which is then saved unscored.

    `micro_batches` yields what each step, from state.step on, eats.

    Step n + 1 is dispatched before the metrics of step n are read, so the device never waits for
    the log, and at most two steps are in flight. Evaluation and saving happen after the metrics
    of every step up to theirs were read and flushed.
    """
    step = int(state.step)
    unread: collections.deque[tuple[int, dict]] = collections.deque()

    def read(keep: int):
        """Wait for the metrics of all steps but the newest `keep`."""
        while len(unread) > keep:
            number, metrics = unread.popleft()
            metrics = jax.device_get(metrics)
            recorder.step(number, metrics, waited())
            in_a_row = int(metrics["skipped_in_a_row"])
            if in_a_row >= config.stop_after_skipped:
                first, last = (number - 1) * accumulate, number * accumulate - 1
                batches = f"batch {last}" if first == last else f"batches {first} to {last}"
                raise TrainingDiverged(
                    f"the gradient was not finite in {in_a_row} steps in a row, the last of them "
                    f"step {number} ({batches}); the parameters saved are those from before. "
                    "Train in another run folder with a lower lr_factor or more warmup_steps; "
                    "--init-from starts it from this one"
                )

    for batch in micro_batches:
        step += 1
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, batch)
        unread.append((step, metrics))
        read(keep=1)
        if config.checkpoint_each_epoch:
            save_now = is_epoch_end(step)
        else:
            save_now = step % config.checkpoint_every == 0
        save_now |= step == config.steps
        # A checkpoint without a score could not become the best one.
        if save_now or step % config.evaluate_every == 0:
            read(keep=0)
            start = time.perf_counter()
            scores = evaluate(state)
            recorder.evaluation(step, scores, time.perf_counter() - start)
            if save_now:
                recorder.flush()
                save(state, step, scores)
        if stopped(step):
            read(keep=0)
            if not save_now:
                recorder.flush()
                save(state, step, None)
            break
    read(keep=0)
    return state
