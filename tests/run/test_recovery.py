"""What a run survives: damage, other inputs, two jobs at once, kills."""

import json
import logging
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.small_job import configuration, last_fingerprints
from transformer_jax import Translator
from transformer_jax.cli import main
from transformer_jax.data.corpus import CorpusError
from transformer_jax.data.manifest import Manifest
from transformer_jax.devices.signals import Interrupted
from transformer_jax.errors import UserError
from transformer_jax.files import folder_lock
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.train import train
from transformer_jax.training.metrics import MetricsWriter


def damage(folder, how):
    """Change the file that holds the parameters (others are of writing processes, since merged)."""
    file = max((folder / "params" / "d").iterdir(), key=lambda p: p.stat().st_size)
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)


@pytest.mark.parametrize(
    "how",
    ["flipped", *(pytest.param(how, marks=pytest.mark.slow) for how in ("truncated", "missing"))],
)
def test_damaged_checkpoint_is_quarantined_and_the_previous_used(tmp_path, how, caplog):
    config = configuration(tmp_path, steps=12)
    run = train(config, tmp_path / "run", progress=False)
    expected = last_fingerprints(run.folder)
    damage(run.folder / "checkpoints" / "12", how)
    with caplog.at_level(logging.WARNING):
        train(config, run.folder, progress=False)
    assert "checkpoints/12" in caplog.text
    assert "trying an older one" in caplog.text
    assert last_fingerprints(run.folder) == expected


def test_damaged_metadata_of_orbax_is_quarantined_and_the_previous_used(tmp_path, caplog):
    """Orbax reads the metadata of every step as it starts."""
    config = configuration(tmp_path, steps=12)
    run = train(config, tmp_path / "run", progress=False)
    expected = last_fingerprints(run.folder)
    note = run.folder / "checkpoints" / "12" / "_CHECKPOINT_METADATA"
    note.write_text(json.dumps({**json.loads(note.read_text()), "metrics": 5}))
    train(config, run.folder, progress=False)
    assert "checkpoints/12" in caplog.text
    assert "moved to damaged/" in caplog.text
    assert last_fingerprints(run.folder) == expected


def test_refused_text_leaves_the_run_unchanged(tmp_path):
    """The prepared corpus survives, so the run resumes, even where the text has gone."""
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    source = Path(config.data.train[0])
    source.write_text("other text\n" * 400)
    with pytest.raises(RunError, match=r"another text than .*src holds now"):
        train(config, run.folder, progress=False)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before
    source.unlink()
    train(replace(config, train=replace(config.train, steps=7)), run.folder, progress=False)
    assert Checkpoints(run.folder / "checkpoints", read_only=True).steps()[-1] == 7


@pytest.mark.slow
def test_missing_corpus_is_prepared_again_from_the_same_text_only(tmp_path):
    config = configuration(tmp_path, steps=2)
    run = train(config, tmp_path / "run", progress=False)
    config = run.config
    further = replace(config, train=replace(config.train, steps=4))
    (run.folder / "corpus" / Manifest.FILE).unlink()  # its arrays are all that counts
    train(further, run.folder, progress=False)
    shutil.rmtree(run.folder / "corpus")
    source = Path(config.data.train[0])
    text = source.read_text()
    source.write_text(text + text)
    with pytest.raises(UserError, match="lines but"):
        train(further, run.folder, progress=False)
    source.write_text(text.replace("w1", "w2"))
    with pytest.raises(RunError, match="was trained on corpus"):
        train(further, run.folder, progress=False)
    assert not (run.folder / "corpus").exists()
    source.write_text(text)
    train(replace(config, train=replace(config.train, steps=6)), run.folder, progress=False)


@pytest.mark.parametrize("where", ["tokens", "vocabulary"])
def test_damaged_corpus_is_refused(tmp_path, where):
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    corpus = run.folder / "corpus" / "train"
    if where == "tokens":
        file = corpus / "source.tokens.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    else:
        file = corpus / "vocabulary.json"
        file.write_text(file.read_text().replace("w1", "x1"))
    with pytest.raises(CorpusError, match="train is damaged: its arrays or its vocabularies"):
        train(config, run.folder, progress=False)


def test_checkpoint_of_another_configuration_is_refused(tmp_path):
    """config.json was lost and the folder is trained in anew with another seed."""
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    (run.folder / "config.json").unlink()
    other = replace(config, train=replace(config.train, seed=5))
    with pytest.raises(RunError, match="saved with another configuration or text"):
        train(other, run.folder, progress=False)


def test_average_is_mean_and_is_rebuilt_when_damaged(uninterrupted_run, tmp_path, caplog):
    _, config, run = uninterrupted_run
    run = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    averaged, *last = (Translator.load(run.folder, c).params for c in ("averaged", "18", "24"))
    for mean, *parts in zip(*map(jax.tree.leaves, (averaged, *last))):
        np.testing.assert_allclose(mean, (parts[0] + parts[1]) / 2, atol=1e-7)
    damage(run.folder / "averaged" / "24", "flipped")
    with caplog.at_level(logging.WARNING):
        assert Translator.load(run.folder).checkpoint == "step 24"
    assert "averaged/24" in caplog.text
    assert "using the newest checkpoint instead" in caplog.text
    train(config, run.folder, progress=False)
    assert Translator.load(run.folder).checkpoint == "averaged at step 24"


def test_concurrent_jobs_on_one_folder(uninterrupted_run):
    _, config, run = uninterrupted_run
    before = (run.folder / "config.json").read_bytes()
    longer = replace(config, train=replace(config.train, steps=999))
    with folder_lock(run.folder), pytest.raises(UserError, match="another job is training"):
        train(longer, run.folder, progress=False)
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_stopped_run_resumes_bit_for_bit(tmp_path, uninterrupted_run, monkeypatch, number):
    """Stopped after step 10, between checkpoints; one more that is saved in between is no part."""
    _, config, run = uninterrupted_run
    step = MetricsWriter.write_step

    def stop(self, number_of_step, *rest):
        step(self, number_of_step, *rest)
        if number_of_step == 9:  # metrics are read a step late
            signal.raise_signal(number)

    monkeypatch.setattr(MetricsWriter, "write_step", stop)
    with pytest.raises(
        Interrupted, match=f"{number.name} after step 10, .* --run-dir .*/run"
    ) as told:
        train(config, tmp_path / "run", progress=False)
    assert told.value.signal == number
    stopped = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    assert (stopped.steps(), stopped.scheduled_steps()) == ([6, 10], [6])
    assert Translator.load(tmp_path / "run").checkpoint == "step 10"
    monkeypatch.undo()
    train(config, tmp_path / "run", progress=False)
    assert last_fingerprints(tmp_path / "run") == last_fingerprints(run.folder)
    records = [(f / "metrics.jsonl").read_text() for f in (tmp_path / "run", run.folder)]
    assert records[0] == records[1]
    kept = [Checkpoints(f / "checkpoints", read_only=True) for f in (tmp_path / "run", run.folder)]
    assert kept[0].steps() == kept[1].steps()


def test_signal_during_restore_is_no_damage(tmp_path, uninterrupted_run, monkeypatch):
    """SIGTERM is raised wherever Python is; a intact checkpoint stays where it is."""
    run = Run.open(shutil.copytree(uninterrupted_run[2].folder, tmp_path / "run"))
    restore = ocp.CheckpointManager.restore

    def stopped(self, step, args):
        if "params" in args:
            signal.raise_signal(signal.SIGTERM)
        return restore(self, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", stopped)
    with pytest.raises(SystemExit) as ended, monkeypatch.context() as patch:
        patch.setattr("os._exit", sys.exit)
        main(["train", "--run-dir", str(run.folder), "--steps", "30"])
    assert ended.value.code == 143
    assert not (run.folder / "damaged").exists()


def test_stopped_run_may_end_at_its_step(tmp_path, uninterrupted_run, monkeypatch):
    """Its last step was unscheduled, and is averaged with those before all the same."""
    _, config, _ = uninterrupted_run
    step = MetricsWriter.write_step

    def stop(self, number, *rest):
        step(self, number, *rest)
        if number == 7:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(MetricsWriter, "write_step", stop)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=False)
    monkeypatch.undo()
    assert "checkpoints/8: intact, unscheduled" in describe_run(tmp_path / "run")
    train(replace(config, train=replace(config.train, steps=8)), tmp_path / "run", progress=False)
    assert "averaged/8: intact, mean of 6, 8" in describe_run(tmp_path / "run")
    assert Translator.load(tmp_path / "run").checkpoint == "averaged at step 8"


def test_run_without_checkpoints_may_change(tmp_path, uninterrupted_run, monkeypatch):
    """As where its first batch did not fit; one that has saved may not."""
    config = replace(uninterrupted_run[1], train=replace(uninterrupted_run[1].train, steps=1))

    def fail(*arguments, **options):
        raise UserError("no memory")

    monkeypatch.setattr("transformer_jax.run.train.check_step_memory", fail)
    with pytest.raises(UserError, match="no memory"):
        train(config, tmp_path / "run", progress=False)
    monkeypatch.undo()
    config = replace(config, data=replace(config.data, batch_tokens=128))
    assert train(config, tmp_path / "run", progress=False).config.data.batch_tokens == 128
    config = replace(config, data=replace(config.data, batch_tokens=64))
    with pytest.raises(RunError, match=r"was started with data\.batch_tokens = 128"):
        train(config, tmp_path / "run", progress=False)
