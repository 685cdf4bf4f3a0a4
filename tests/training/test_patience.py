"""Training that ends for want of a gain: the same however often it was stopped on the way."""

from dataclasses import replace

import pytest

from tests.small_job import configuration, last_fingerprints, read_jsonl
from transformer_jax.devices.signals import Interrupted
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.train import train
from transformer_jax.training.patience import Patience


def read_all(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def with_train(config, **fields):
    return replace(config, train=replace(config.train, **fields))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A configuration whose loss never gains enough after its first evaluation, and its run."""
    folder = tmp_path_factory.mktemp("patience")
    config = configuration(
        folder, steps=100, evaluate_every=4, checkpoint_every=6, patience=3, min_delta=50.0
    )
    return config, train(config, folder / "run", progress=False)


def test_patience_counts_scheduled_evaluations(ended):
    _, run = ended
    records = read_jsonl(run.folder / "metrics.jsonl")
    # The first is the best; those at checkpoints alone (6, 18) do not count: 8, 12 and 16 do.
    assert records[-1] == {"step": 16, "evaluations_without_gain": 3}
    assert [r["step"] for r in records if "validation_loss" in r] == [4, 6, 8, 12, 16]
    checkpoints = run.checkpoints(read_only=True)
    assert checkpoints.steps() == [6, 12, 16] == checkpoints.scheduled_steps()
    assert (run.checkpoint_root / "averaged" / "16").is_dir()
    ended = "checkpoints/16: intact, ended after 3 evaluations without a gain"
    assert ended in describe_run(run.folder)


def test_patience_ends_at_the_same_step_after_a_stop(ended, tmp_path):
    config, whole = ended
    for steps in (7, 13):
        train(with_train(config, steps=steps), tmp_path / "run", progress=False)
    run = train(config, tmp_path / "run", progress=False)
    assert run.checkpoints(read_only=True).steps()[-1] == 16
    assert last_fingerprints(run.folder) == last_fingerprints(whole.folder)


def test_patience_with_a_damaged_checkpoint(ended, tmp_path):
    config, whole = ended
    train(with_train(config, steps=13), tmp_path / "run", progress=False)
    [note] = (tmp_path / "run" / "checkpoints" / "13" / "meta").glob("metadata")
    note.write_text("{")
    run = train(config, tmp_path / "run", progress=False)
    assert last_fingerprints(run.folder) == last_fingerprints(whole.folder)


def test_patience_must_change_to_train_further(ended, tmp_path):
    config, _ = ended
    train(config, tmp_path / "run", progress=False)
    before = read_all(tmp_path / "run")
    message = (
        r"ended at step 16: 3 evaluations in a row had no gain in loss; to resume, give another "
        "--patience than 3, or None"
    )
    with pytest.raises(RunError, match=message):
        train(config, tmp_path / "run", progress=False)
    assert read_all(tmp_path / "run") == before
    again = train(with_train(config, patience=2), tmp_path / "run", progress=False)
    assert again.checkpoints(read_only=True).steps()[-1] == 28  # 20 is the best of the new count
    without = train(with_train(config, patience=None, steps=30), tmp_path / "run", progress=False)
    assert without.checkpoints(read_only=True).steps()[-1] == 30
    assert Run.open(tmp_path / "run").config.train.patience is None


def test_patience_needs_a_validation_text(tmp_path):
    config = configuration(tmp_path)
    config = replace(config, data=replace(config.data, validation=None))
    for folder in ("new", "run"):
        if folder == "run":
            train(config, tmp_path / "run", progress=False)
            before = read_all(tmp_path / "run")
        with pytest.raises(RunError, match="patience 2 counts evaluations, and there is no valid"):
            train(with_train(config, patience=2), tmp_path / folder, progress=False)
    assert read_all(tmp_path / "run") == before and not Run.exists(tmp_path / "new")


def test_patience_average_survives_a_kill(ended, tmp_path, monkeypatch):
    config, whole = ended

    def die(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr("transformer_jax.run.train.average_checkpoints", die)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "averaged").exists()
    run = train(config, tmp_path / "run", progress=False)
    assert run.checkpoints(read_only=True).steps() == [6, 12, 16]
    folders = [each.checkpoint_root / "averaged" for each in (run, whole)]
    averages = [Checkpoints(folder, read_only=True).metadata(16) for folder in folders]
    assert averages[0]["fingerprints"] == averages[1]["fingerprints"]


def test_patience_restarts_with_another_metric(ended):
    config, run = ended
    before = run.checkpoints(read_only=True).metadata(16)
    metrics = run.task.best_metrics
    assert Patience.of(config.train, metrics, before).ended
    other = replace(config.train, best_metric="accuracy")
    assert Patience.of(other, metrics, before) == Patience("accuracy", True, 3, 50.0)


def test_patience_is_decided_by_the_first_process(tmp_path, monkeypatch):
    monkeypatch.setattr("transformer_jax.run.train.broadcast_from_first", lambda ends: False)
    config = configuration(tmp_path, evaluate_every=4, patience=1, min_delta=50.0)
    run = train(config, tmp_path / "run", progress=False)
    assert run.checkpoints(read_only=True).steps()[-1] == 24


@pytest.mark.parametrize(
    "more, scores, best, evaluations_without_gain",
    [
        (False, [3.0, 2.0, 2.05, 1.95], 2.0, 2),
        (True, [3.0, 3.05, 3.2], 3.2, 0),
        (True, [None, float("nan"), 1.0, 0.5], 1.0, 1),
    ],
)
def test_patience_counts_gains_above_min_delta(more, scores, best, evaluations_without_gain):
    patience = Patience("it", more, 9, 0.1)
    assert not any(patience.ends(score) for score in scores)
    assert (patience.best, patience.evaluations_without_gain) == (best, evaluations_without_gain)
