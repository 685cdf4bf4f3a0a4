"""The training loop: it owns nothing and is handed data, evaluation and saving."""

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
    accumulate: int = 1,
    waited: Callable[[], float] = lambda: 0.0,
    stopped: Callable[[int], bool] = lambda step: False,
    ended: Callable[[int, dict[str, float]], bool] = lambda step, scores: False,
) -> TrainState:
    """Train until `config.steps`, or as long as there are batches; the state after the last step.

    train_step     (state, micro-batches of a step) -> (state, metrics), a runner's
    micro_batches  what each step, from state.step on, takes: a list of `accumulate` batches
    writer       takes the metrics of steps and evaluations; by default nothing is recorded
    evaluate       state -> scores by name, every `config.evaluate_every` steps and before each save
    save           (state, step, scores), as often as `config` says and after step `config.steps`
    is_epoch_end   step -> whether an epoch ends with it, where `config.checkpoint_every_epoch`
    waited         seconds that the loop has waited for batches so far
    stopped        step -> whether to stop after it; it is then saved with scores None
    ended          (step, scores of a scheduled evaluation) -> whether training ends there, saved

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
            writer.write_step(number, metrics, waited())
            in_a_row = int(metrics["consecutive_skips"])
            if in_a_row >= config.max_consecutive_skips:
                first, last = (number - 1) * accumulate, number * accumulate - 1
                batches = f"batch {last}" if first == last else f"batches {first} to {last}"
                raise TrainingDiverged(
                    f"the gradient was not finite in {in_a_row} steps in a row, the last of them "
                    f"step {number} ({batches}); the parameters saved are those from before. "
                    "Train in another run folder with a lower lr_factor or more warmup_steps; "
                    "--init-from starts it from this one"
                )

    for batch in micro_batches if step < config.steps else ():
        step += 1
        end = step == config.steps
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, batch)
        unread.append((step, metrics))
        read(keep=1)
        if config.checkpoint_every_epoch:
            save_now = is_epoch_end(step)
        else:
            save_now = step % config.checkpoint_every == 0
        save_now |= end
        # A checkpoint without a score could not become the best one.
        if save_now or step % config.evaluate_every == 0:
            read(keep=0)
            start = time.perf_counter()
            scores = evaluate(state)
            writer.write_evaluation(step, scores, time.perf_counter() - start)
            end |= step % config.evaluate_every == 0 and ended(step, scores)
            save_now |= end
            if save_now:
                writer.flush()
                save(state, step, scores)
        if stopped(step):
            read(keep=0)
            if not save_now:
                writer.flush()
                save(state, step, None)
            end = True
        if end:
            break
    read(keep=0)
    return state
