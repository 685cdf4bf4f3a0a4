"""A training job: from a RunConfig to a trained run folder, new or resumed."""

import contextlib
import logging
import re
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from transformer_jax.config import RunConfig
from transformer_jax.data.batching import Batches, Prefetch, extend_order_digest
from transformer_jax.devices.allocator import keep_freed_memory
from transformer_jax.devices.layout import make_layout
from transformer_jax.devices.processes import (
    RESTART,
    broadcast_from_first,
    is_first,
    is_multi_process,
    run_on_first,
)
from transformer_jax.devices.settings import usual_settings
from transformer_jax.devices.signals import Interrupted, deferred_signals, hang_up_as_terminate
from transformer_jax.evaluation.validation import Validation
from transformer_jax.files import folder_lock
from transformer_jax.run.average import average_checkpoints
from transformer_jax.run.folder import Run, RunError, check_store
from transformer_jax.run.items import state_to_items
from transformer_jax.run.names import PROFILE
from transformer_jax.run.preflight import check_before_training
from transformer_jax.run.resume import open_or_create_run, restore_or_init, template_of
from transformer_jax.run.variables import load_variables
from transformer_jax.training.loop import train_loop
from transformer_jax.training.memory import check_step_memory, oom_as_user_error
from transformer_jax.training.metrics import MetricsWriter, NullMetricsWriter, OnRecord
from transformer_jax.training.optimizer import MakeOptimizer, make_optimizer
from transformer_jax.training.patience import Patience
from transformer_jax.training.profiling import trace_steps
from transformer_jax.training.runners import make_runner
from transformer_jax.training.schedule import make_schedule

__all__ = ["train"]

log = logging.getLogger(__name__)


@usual_settings()
def train(
    config: RunConfig,
    folder: Path,
    *,
    init_from: Path | None = None,
    fit_memory: bool = False,
    profile: int = 0,
    progress: bool = True,
    on_record: OnRecord | None = None,
    optimizer: MakeOptimizer = make_optimizer,
    change_optimizer: bool = False,
) -> Run:
    """Train in `folder`, from the start or from the newest intact checkpoint.

    It evaluates, saves, and at the end averages checkpoints as `config.train` says, on the devices
    that `config.train.parallel` and `.mesh` name. One job at a time may hold the folder. Within
    `distributed_session` several processes call this function together.

    Args:
        config: What to train. A run that is resumed keeps the fields that decide its numbers; the
            others may change.
        folder: The run folder; made if it is missing.
        init_from: Another run, whose vocabulary and parameters a new run starts with. A run that is
            resumed has them already.
        fit_memory: Divide each update of a new run into batches that the device's memory holds.
        profile: Steps of which a profiler trace is written to profile/.
        progress: Whether to show a progress bar.
        on_record: Called with every record of metrics.jsonl, in process 0.
        optimizer: Makes another optimizer than Adam, of (OptimizerConfig, schedule). Its learning
            rate must be that schedule, or be kept by `optax.inject_hyperparams`. A run is resumed
            with the same one.
        change_optimizer: A run that is resumed takes the settings in `config.optimizer` from its
            newest checkpoint on. The change and its step are recorded, and decide what the run is;
            accumulation_steps, and whether there is an ema_decay, cannot be changed.

    Returns:
        The run.

    Raises:
        UserError: The configuration, the text or the folder cannot be used; nothing is written.
        Interrupted: SIGINT or SIGTERM arrived; the step has been finished and saved.
    """
    check_store(config.train.checkpoint_dir or folder)
    if re.match(r"\w+:/", str(folder)):
        raise RunError(
            f"{folder} is not on a file system: a run folder is one that all processes "
            "share (a mounted bucket may be); --checkpoint-dir may be on object storage"
        )
    try:
        layout = make_layout(config.model, config.train)
        if fit_memory and is_multi_process():
            raise RunError(
                "--fit-memory compiles in one process: find batch_tokens and --accumulation-steps "
                "with one, and give them to all"
            )
        with contextlib.ExitStack() as held:

            def begin():
                held.enter_context(folder_lock(folder, f"another job is training in {folder}"))
                return open_or_create_run(
                    config, folder, init_from, fit_memory, layout, optimizer, change_optimizer
                )

            # The first process holds the folder for all, and they do what its configuration says.
            run = run_on_first(begin) or Run.open(folder)
            layout = make_layout(run.config.model, run.config.train)
            with oom_as_user_error(run.config.data.batch_tokens):
                while not _train(run, layout, init_from, profile, progress, on_record, optimizer):
                    pass
    except (KeyboardInterrupt, Interrupted) as stop:
        if isinstance(stop, Interrupted) and stop.has_resume_hint:
            raise
        number = stop.signal if isinstance(stop, Interrupted) else signal.SIGINT
        again = _resume_hint(folder) if Run.exists(folder) else "the same command starts again"
        raise Interrupted(number, f"stopped by {number.name}; {again}") from None
    return run


def _resume_hint(folder):
    if is_multi_process():
        return RESTART
    return f"resume with: transformer-jax train --run-dir {shlex.quote(str(folder))}"


def _train(run, layout, init_from, profile, progress, on_record, optimizer):
    """Train until the run ends, or to the next change of the optimizer's settings.

    There is one ahead only where a checkpoint from before it is the newest intact one.

    Returns:
        Whether the run has ended.
    """
    with contextlib.ExitStack() as opened:
        checkpoints = run.checkpoints()
        opened.callback(checkpoints.close)
        newest = max(checkpoints.steps(), default=0)
        steps = run.config.train.steps
        change = next((each for each in run.changes if newest < each.step < steps), None)
        run = run.at(newest)
        config, task, corpus = run.config, run.task, run.training_corpus()
        if change is not None and change.scheduled:
            config = replace(config, train=replace(config.train, steps=change.step))
        if jax.default_backend() == "cpu":
            keep_freed_memory()
        functions = run.step_functions(optimizer)
        runner = make_runner(config.train.parallel, functions, layout)
        batches = Batches(
            corpus,
            config.data,
            config.train.seed,
            layout.local_rows,
            ignored=task.pairing.ignored,
            corrupt=task.corrupt,
        )
        accumulation_steps = config.optimizer.accumulation_steps
        memory = ""
        if newest < config.train.steps:
            memory = check_step_memory(runner, config, batches.shapes)
        text = run.validation_corpus()
        validation = None if text is None else Validation(config, layout, text, task)
        compiling = opened.enter_context(contextlib.ExitStack())

        def compile_from(step):
            compiling.close()
            # Several processes may have to compile the same at the same time.
            if step < config.train.steps and not is_multi_process():
                span = (at * accumulation_steps for at in (step, config.train.steps))
                ahead = runner.compiling_ahead(batches.shapes_ahead(*span), accumulation_steps)
                compiling.enter_context(ahead)

        compile_from(newest)
        state, restored = restore_or_init(
            run, checkpoints, runner.template, functions.init, init_from, optimizer
        )
        patience = Patience.of(config.train, task.best_metrics, restored)
        first = int(state.step)
        if run.at(first).config != run.config:
            # The newest was damaged, and the settings have changed since this one.
            return False
        if first != newest:
            compile_from(first)
        # Killed after patience had ended it, a run has only its average left to take.
        end = first if patience.ended else config.train.steps
        writer: Any = NullMetricsWriter()
        if is_first():
            writer = MetricsWriter(
                run.folder,
                log_every=config.train.log_every,
                total_steps=config.train.steps,
                first_step=first,
                unlogged_sums=restored.get("unlogged_sums"),
                progress=progress,
                on_record=on_record,
            )
            opened.callback(writer.close)

        order_digest = restored.get("data_order_digest", "")

        def micro_batches(step):
            found = [
                batches.shape_and_indices(step * accumulation_steps + i)
                for i in range(accumulation_steps)
            ]
            with usual_settings():  # which hold in the thread that asks for them
                placed = [runner.place_batch(batches.assemble(*each)) for each in found]
            return [indices for _, indices, _ in found], placed

        def batches_with_digest():
            nonlocal order_digest
            for indices, placed in prefetch:
                order_digest = extend_order_digest(order_digest, indices)
                yield placed

        def save(state, step, scores):
            meta = _metadata(run, writer.unlogged_sums, order_digest)
            meta |= {"patience": patience.record} if patience.limit is not None else {}
            checkpoints.save(step, state_to_items(state), meta, scores, unscheduled=scores is None)

        last_loss = None

        def evaluate(state):
            nonlocal last_loss
            if validation is None:
                return {}
            writer.show_activity("evaluating")
            scores = validation.scores(state.evaluation_variables)
            last_loss = scores.get("validation_loss")
            writer.show_activity("")
            return scores

        def is_epoch_end(step):
            # The epoch of the first batch not yet seen differs from that of the last one seen.
            done = step * accumulation_steps
            return batches.epoch_of(done) != batches.epoch_of(done - accumulation_steps)

        def should_end(step, scores):
            score = scores.get(f"validation_{config.train.best_metric}")
            if not broadcast_from_first(patience.ends(score)):
                return False
            count = patience.evaluations_without_gain
            writer.write_evaluation(step, {"evaluations_without_gain": count}, 0.0)
            writer.print_line(f"training ends: no gain in {patience.metric} over {patience.best}")
            return True

        prefetch = Prefetch(micro_batches, first, end)
        opened.callback(prefetch.close)
        with _stop_requests(checkpoints) as received:
            lines = _startup_summary(corpus, batches, state, layout, config)
            if optimizer is make_optimizer:
                lines += _peak_rate(config)
            writer.print_line(f"{lines}\n{memory}")
            if not restored:
                writer.print_line(check_before_training(run, state, validation))
                if init_from is not None:
                    # So that a run killed before its first checkpoint resumes from these.
                    checkpoints.save(
                        0, state_to_items(state), _metadata(run, None, ""), unscheduled=True
                    )
            step_batches = batches_with_digest()
            if profile and is_first():
                step_batches = trace_steps(step_batches, run.folder / PROFILE, profile)
            with contextlib.closing(step_batches):  # a trace ends with the batches
                state = train_loop(
                    state,
                    runner,
                    step_batches,
                    config.train,
                    writer,
                    evaluate=evaluate,
                    save=save,
                    is_epoch_end=is_epoch_end,
                    accumulation_steps=accumulation_steps,
                    total_input_wait=lambda: prefetch.waited,
                    should_stop=lambda step: (
                        received(step) is not None or (change is not None and step == change.step)
                    ),
                    should_end=should_end,
                )
        checkpoints.wait()
        stopped = received(int(state.step))
        if stopped is not None and int(state.step) < steps and not patience.ended:
            raise Interrupted(
                stopped,
                f"stopped by {stopped.name} after step {int(state.step)}, which is saved; "
                f"{_resume_hint(run.folder)}",
            )
        if int(state.step) < steps and not patience.ended:
            return False
        # The newest ends the run, even where it is unscheduled, as it was stopped there.
        steps = sorted({*checkpoints.scheduled_steps(), checkpoints.steps()[-1]})
        chosen = steps[-config.train.average_last :]
        averaged = average_checkpoints(run, checkpoints, chosen, template_of(runner.template))
        if len(averaged) > 1 and validation is not None and last_loss is not None:
            variables, _ = load_variables(run, "averaged", template_of(runner.template))
            _warn_of_average(averaged, validation.loss(variables), last_loss)
        return True


@contextlib.contextmanager
def _stop_requests(checkpoints):
    """Give a function step -> the signal after which to stop there, or None.

    Its answer is the same in every process.
    """
    if is_multi_process():  # JAX takes SIGTERM and agrees on a step
        with hang_up_as_terminate():
            yield lambda step: signal.SIGTERM if checkpoints.reached_preemption(step) else None
    else:
        with deferred_signals() as received:
            yield lambda step: received()


def _metadata(run, unlogged_sums, order_digest):
    return {
        "run_identity": run.identity,
        "data_order_digest": order_digest,
        "unlogged_sums": unlogged_sums,
    }


def _startup_summary(corpus, batches, state, layout, config):
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    epoch = batches.batches_before(1000) / 1000
    return (
        f"{len(corpus)} sentence pairs, vocabulary {corpus.vocabularies}, "
        f"{parameters:,} parameters, {epoch:.1f} batches an epoch, "
        f"{batches.padding_fraction():.1%} padding, "
        f"{layout.mesh.size} {jax.devices()[0].device_kind} device(s), {layout}\n"
        f"from step {int(state.step)} to {config.train.steps}; "
        f"{len(batches.shapes)} batch shapes, compiled as they come"
    )


def _warn_of_average(steps, loss, last_loss):
    """Warn of an average that is worse than the newest checkpoint, as that of a short run is."""
    if loss > last_loss:
        log.warning(
            "the average of the checkpoints of steps %d to %d has validation loss %.3f, the newest "
            "checkpoint %.3f: translate with --checkpoint last, or average fewer with "
            "transformer-jax average --last N", steps[0], steps[-1], loss, last_loss,
        )  # fmt: skip


def _peak_rate(config):
    warmup = config.optimizer.warmup_steps
    peak = float(make_schedule(config.optimizer, config.model.d_model)(warmup - 1))
    return f"\npeak learning rate {peak:.2e} at step {warmup}"
