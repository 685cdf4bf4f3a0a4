"""What the records say is what TensorBoard shows, and a full disk stops neither."""

import errno
import logging

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.record_writer import RecordWriter

from tests.small_job import read_jsonl
from transformer_jax.training import metrics
from transformer_jax.training.metrics import MetricsWriter

METRICS = {
    "loss_sum": 6.0, "tokens": 3.0, "learning_rate": 0.5, "gradient_norm": 1.0,
    "skipped": 0, "consecutive_skips": 0, "metric_sums": {},
}  # fmt: skip


def record(folder, first, last, loss):
    writer = MetricsWriter(folder, log_every=1, total_steps=9, first_step=first, progress=False)
    for step in range(first + 1, last + 1):
        writer.write_step(step, {**METRICS, "loss_sum": 3 * loss}, 0.0)
    writer.write_evaluation(last, {"validation_loss": loss + 1}, 0.1)
    writer.flush()
    writer.close()


def test_tensorboard_shows_records_without_truncated_ones(tmp_path):
    record(tmp_path, 0, 4, loss=2.0)
    record(tmp_path, 2, 5, loss=7.0)  # resumes from step 2
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = [(event.step, event.value) for event in board.Scalars("loss")]
    assert shown == [(1, 2.0), (2, 2.0), (3, 7.0), (4, 7.0), (5, 7.0)]
    written = [r for r in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in r]
    assert [(r["step"], r["loss"]) for r in written] == shown
    assert [(e.step, e.value) for e in board.Scalars("validation_loss")] == [(5, 8.0)]


def test_unwritable_tensorboard_warns_and_continues(tmp_path, monkeypatch, caplog):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    with caplog.at_level(logging.WARNING):
        record(tmp_path, 0, 4, loss=2.0)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 5
    [message] = caplog.messages
    assert message == ("TensorBoard events end: No space left on device; metrics.jsonl is complete")


def test_time_left_does_not_count_compiling(monkeypatch, capsys):
    """Ten steps of 20 s that compile, then steps of 0.5 s: ten that are left take 5 s."""
    clock = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock[0])
    writer = MetricsWriter(None, log_every=100, total_steps=50)
    for step in range(1, 41):
        clock[0] += 20 if step <= 10 else 0.5
        if step == 30:
            writer.write_evaluation(step, {"validation_loss": 1.0}, 60.0)
            clock[0] += 60
        writer.write_step(step, METRICS, 0.0)
        if step == 9:
            assert "compile" in writer._bar.postfix
    assert writer._bar.postfix.startswith("00:05 left, 2.0 steps/s")
    writer.close()
    assert "the first batches compile" in capsys.readouterr().err
