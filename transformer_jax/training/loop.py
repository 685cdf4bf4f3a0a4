"""The training loop. Data, evaluation and saving are passed in as callables."""

import collections
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from transformer_jax.config import TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.training.metrics import MetricsWriter, NullMetricsWriter
from transformer_jax.training.state import TrainState

__all__ = ["TrainingDiverged", "train_loop"]


class TrainingDiverged(UserError):
    """Too many steps in a row had gradients that are not finite."""


def train_loop(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    micro_batches: Iterable[Any],
    config: TrainConfig,
    writer: MetricsWriter | NullMetricsWriter = NullMetricsWriter(),
    *,
    evaluate: Callable[[TrainState], dict[str, float]] = lambda state: {},
    save: Callable[[TrainState, int, dict[str, float] | None], None] = lambda *state: None,
    is_epoch_end: Callable[[int], bool] = lambda step: False,
    accumulation_steps: int = 1,
    total_input_wait: Callable[[], float] = lambda: 0.0,
    should_stop: Callable[[int], bool] = lambda step: False,
    should_end: Callable[[int, dict[str, float]], bool] = lambda step, scores: False,
) -> TrainState:
    """Train until `config.steps`, or as long as there are batches.

    Step n + 1 is dispatched before the metrics of step n are read, so that the device never waits
    for the log, and at most two steps are in flight; only the first step's are read at once.
    Evaluation and saving happen after the metrics of every step up to theirs have been read and
    flushed.

    Args:
        state: The state to start from.
        train_step: (state, micro-batches of a step) -> (state, metrics), as a runner is.
        micro_batches: What each step takes, from `state.step` on: a list of `accumulation_steps`
            batches.
        config: How long to train, and how often to evaluate and save.
        writer: Takes the metrics of steps and evaluations; by default nothing is written.
        evaluate: state -> scores by name; called every `config.evaluate_every` steps and before
            each save.
        save: save(state, step, scores), called as often as `config` says and after the last step.
        is_epoch_end: step -> whether an epoch ends with it, for `config.checkpoint_every_epoch`.
        accumulation_steps: Micro-batches in a step.
        total_input_wait: () -> seconds that the loop has waited for batches so far.
        should_stop: step -> whether to stop after it; it is then saved with scores None.
        should_end: (step, scores of a scheduled evaluation) -> whether training ends there, saved.

    Returns:
        The state after the last step.

    Raises:
        TrainingDiverged: The gradient was not finite in `config.max_consecutive_skips` steps in a
            row.
    """
    first_step = step = int(state.step)
    unread_metrics: collections.deque[tuple[int, dict]] = collections.deque()

    def drain_metrics(keep: int):
        """Read the metrics of all steps but the newest `keep`, waiting for them."""
        while len(unread_metrics) > keep:
            number, metrics = unread_metrics.popleft()
            metrics = jax.device_get(metrics)
            writer.write_step(number, metrics, total_input_wait())
            in_a_row = int(metrics["consecutive_skips"])
            if in_a_row >= config.max_consecutive_skips:
                first, last = (number - 1) * accumulation_steps, number * accumulation_steps - 1
                batches = f"batch {last}" if first == last else f"batches {first} to {last}"
                raise TrainingDiverged(
                    f"the gradient was not finite in {in_a_row} steps in a row, the last of them "
                    f"step {number} ({batches}); the parameters saved are those from before. "
                    "Go on with a lower learning rate (--change-optimizer with another lr_factor, "
                    "peak_learning_rate or warmup_steps), or train in another run folder"
                )

    for batch in micro_batches if step < config.steps else ():
        step += 1
        end = step == config.steps
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, batch)
        unread_metrics.append((step, metrics))
        # The first step's are read before the second is dispatched, which may have to be compiled.
        drain_metrics(keep=0 if step == first_step + 1 else 1)
        if config.checkpoint_every_epoch:
            save_now = is_epoch_end(step)
        else:
            save_now = step % config.checkpoint_every == 0
        save_now |= end
        # A checkpoint without a score could not become the best one.
        if save_now or step % config.evaluate_every == 0:
            drain_metrics(keep=0)
            start = time.perf_counter()
            scores = evaluate(state)
            writer.write_evaluation(step, scores, time.perf_counter() - start)
            end |= step % config.evaluate_every == 0 and should_end(step, scores)
            save_now |= end
            if save_now:
                writer.flush()
                save(state, step, scores)
        if should_stop(step):
            drain_metrics(keep=0)
            if not save_now:
                writer.flush()
                save(state, step, None)
            end = True
        if end:
            break
    drain_metrics(keep=0)
    return state
