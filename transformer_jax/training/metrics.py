"""Writers of a run's numbers: metrics.jsonl, timings.jsonl, TensorBoard and the progress bar."""

import collections
import contextlib
import errno
import json
import logging
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.files import write_atomically

__all__ = ["MetricsWriter", "NullMetricsWriter", "progress_bar", "truncate_after_step"]

log = logging.getLogger(__name__)

OnRecord = Callable[[dict[str, float]], object]


def progress_bar(**options: Any) -> Any:
    """Make a tqdm bar on standard error, with tqdm's options."""
    from tqdm import tqdm

    interval = 0.5 if sys.stderr.isatty() else 30  # a log file needs fewer lines
    return tqdm(mininterval=interval, dynamic_ncols=True, **options)


def truncate_after_step(path: Path, step: int) -> None:
    """Drop the records of a JSONL file after `step`, and those that are half written."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, b"".join(kept))


class MetricsWriter:
    """Sums the metrics of steps into one record every `log_every` steps, and writes the records.

    metrics.jsonl holds only what a repeated run repeats; times go to timings.jsonl.
    `unlogged_sums`, those since the last record, travel in checkpoints so that the records of a
    resumed run are those of an uninterrupted one.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        log_every: int,
        total_steps: int,
        first_step: int = 0,
        unlogged_sums: dict[str, float] | None = None,
        progress: bool = True,
        on_record: OnRecord | None = None,
    ):
        """Open the files, and drop what they hold after `first_step`.

        Args:
            folder: The run folder; None writes no files.
            log_every: Steps between two records.
            total_steps: Steps of the whole run, for the progress bar.
            first_step: Step that the run resumes from.
            unlogged_sums: Those of the checkpoint that the run resumes from.
            progress: Whether to show a progress bar.
            on_record: Called with each record, a dict with "step", of training or of an
                evaluation. If it fails, that is logged once, and it is not called again.
        """
        self._files: dict[str, Any] = {}
        if folder is not None:
            for name in ("metrics", "timings"):
                path = folder / f"{name}.jsonl"
                truncate_after_step(path, first_step)
                # Unbuffered: what a full disk did not take must not come up again when files are
                # closed.
                self._files[name] = path.open("ab", buffering=0)
        self._board = (
            None if folder is None else _TensorBoardWriter(folder / "tensorboard", first_step)
        )
        self._on_record = on_record
        self._log_every = log_every
        self.unlogged_sums = {"loss": 0.0, "tokens": 0.0, **(unlogged_sums or {})}
        self._bar = progress_bar(
            total=total_steps,
            initial=first_step,
            unit="step",
            disable=not progress,
            # tqdm's own time left would count what the first steps compile.
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._bar.set_postfix_str("the first batches compile")
        self._shown: list[str] = []
        self._total_steps = total_steps
        self._durations: collections.deque[float] = collections.deque(maxlen=64)
        self._step_clock = time.perf_counter()
        self._clock, self._clock_tokens, self._clock_step = time.perf_counter(), 0.0, first_step
        self._waited = 0.0

    def write_step(self, step: int, metrics: dict[str, Any], waited: float) -> None:
        """Take in the metrics of one finished step.

        Args:
            step: Its number.
            metrics: What the step returned.
            waited: Seconds waited for batches so far, in total.
        """
        tokens = float(metrics["tokens"])
        if not metrics["consecutive_skips"]:  # a skipped step's loss may not be a number
            sums = {"loss": metrics["loss_sum"], "tokens": tokens, **metrics["metric_sums"]}
            for name, value in sums.items():
                self.unlogged_sums[name] = self.unlogged_sums.get(name, 0.0) + float(value)
        self._clock_tokens += tokens
        now = time.perf_counter()
        self._durations.append(now - self._step_clock)
        self._step_clock = now
        left = self._time_left(step)
        if left or step == self._total_steps:
            shown = [left, *self._shown] if left else self._shown
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(1)
        if step % self._log_every:
            return
        sums = dict(self.unlogged_sums)
        self.unlogged_sums = dict.fromkeys(sums, 0.0)
        counted = sums.pop("tokens")
        means = {name: v / counted if counted else math.nan for name, v in sums.items()}
        rate = (
            {"learning_rate": float(metrics["learning_rate"])} if "learning_rate" in metrics else {}
        )
        record = {
            "step": step,
            "loss": means.pop("loss"),
            **rate,
            "gradient_norm": float(metrics["gradient_norm"]),
            "skipped": int(metrics["skipped"]),
            **means,
        }
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        timing = {
            "step": step,
            "seconds_per_step": seconds / max(step - self._clock_step, 1),
            "tokens_per_second": self._clock_tokens / seconds,
            "input_wait_fraction": (waited - self._waited) / seconds,
        }
        self._clock, self._clock_tokens, self._clock_step = time.perf_counter(), 0.0, step
        self._waited = waited
        self._take(record, timing)
        self._shown = [f"loss {record['loss']:.3f}", *(f"lr {v:.2e}" for v in rate.values())]
        self._shown.append(f"{timing['tokens_per_second']:.0f} tokens/s")

    def _time_left(self, step: int) -> str:
        """The time that the remaining steps take, and the speed; "" while too little is known.

        Steps that took three times as long as the faster ones compiled a batch shape, and are not
        counted.
        """
        if len(self._durations) < 10:
            return ""
        usual = 3 * statistics.quantiles(self._durations)[0]
        seconds = statistics.fmean(each for each in self._durations if each <= usual)
        left = self._bar.format_interval(max(self._total_steps - step, 0) * seconds)
        speed = f"{1 / seconds:.1f} steps/s" if seconds < 1 else f"{seconds:.1f} s/step"
        return f"{left} left, {speed}"

    def write_evaluation(self, step: int, scores: dict[str, float], seconds: float) -> None:
        """Write the scores of an evaluation; its time is kept out of the speed.

        Args:
            step: The step that it followed.
            scores: Name -> value.
            seconds: Its duration.
        """
        if not scores:
            return
        self._take({"step": step, **scores}, {"step": step, "evaluation_seconds": seconds})
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.print_line(f"step {step}: {text}")
        self._clock += seconds
        self._step_clock += seconds

    def _take(self, record: dict[str, float], timing: dict[str, float]) -> None:
        """A record and its times, to wherever they go."""
        for name, values in (("metrics", record), ("timings", timing)):
            if name in self._files:
                self._write(self._files[name], values)
        if self._board is not None:
            self._board.scalars(int(record["step"]), record | timing)
        if self._on_record is not None:
            try:
                self._on_record(dict(record))
            except Exception as error:
                self._on_record = None
                log.warning("on_record failed and is not called again: %r", error)

    def print_line(self, line: str) -> None:
        """Print a line above the progress bar."""
        if not self._bar.disable:
            with contextlib.suppress(OSError):  # a terminal that has gone away
                self._bar.write(line, file=sys.stderr)

    def show_activity(self, activity: str) -> None:
        """Show before the progress bar what takes long meanwhile; "" for training itself."""
        self._bar.set_description_str(activity)

    def flush(self) -> None:
        """Write every record to the disk."""
        for file in self._files.values():
            os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Close the files and the bar."""
        for file in self._files.values():
            file.close()
        self._bar.close()
        if self._board is not None:
            self._board.close()

    @staticmethod
    def _write(file, record):
        # JSON has no NaN; a diverged loss is written as null.
        finite = {k: v if math.isfinite(v) else None for k, v in record.items()}
        line = (json.dumps(finite) + "\n").encode()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(f"{file.name} cannot be written: {error.strerror}") from None


class NullMetricsWriter:
    """A metrics writer that writes nothing: that of all processes but the first."""

    unlogged_sums = None

    def _ignore(self, *arguments) -> None:
        pass

    write_step = write_evaluation = print_line = show_activity = flush = close = _ignore


class _TensorBoardWriter:
    """TensorBoard events, written as they come; given up, with a word, where they cannot be.

    tensorboardX's SummaryWriter leaves writing to a thread, which dies of a full disk; then its
    queue fills and the job stands still.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(exist_ok=True)
        self._ended = True
        try:
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import RecordWriter
            from tensorboardX.summary import scalar
        except ImportError:
            log.info("tensorboardX is not installed: no TensorBoard events, only metrics.jsonl")
            return
        self._event, self._scalar = event_pb2.Event, scalar
        # TensorBoard reads files in the order of their names.
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._ended = False
        self._write(file_version="brain.Event:2")
        if first_step:  # hides what was written after the step that the run resumes from
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=first_step + 1, session_log=start)

    def scalars(self, step: int, record: dict[str, float]) -> None:
        if self._ended:
            return
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                self._write(step=step, summary=self._scalar(name, value))

    def flush(self) -> None:
        self._try(lambda: self._records.flush())

    def close(self) -> None:
        self._try(lambda: self._records.close())

    def _write(self, **fields):
        def write():
            event = self._event(wall_time=time.time(), **fields)
            self._records.write(event.SerializeToString())

        self._try(write)

    def _try(self, write):
        if self._ended:
            return
        try:
            write()
        except OSError as error:
            self._ended = True
            log.warning("TensorBoard events end: %s; metrics.jsonl is complete", error.strerror)
            with contextlib.suppress(OSError):
                self._records.close()
