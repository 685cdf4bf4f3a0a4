"""What a run survives: damage, other inputs, two jobs at once, kills."""

import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.small_job import ENVIRONMENT, command, configuration, last_prints
from transformer_jax import Translator
from transformer_jax.checkpoints import Checkpoints
from transformer_jax.data.corpus import CorpusError
from transformer_jax.data.preparation import Receipt
from transformer_jax.errors import UserError
from transformer_jax.job import train
from transformer_jax.locking import locked
from transformer_jax.run import Run, RunError
from transformer_jax.training.metrics import Recorder
from transformer_jax.training.stopping import Stopped


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


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(tmp_path, how, caplog):
    config = configuration(tmp_path, steps=12)
    run = train(config, tmp_path / "run", progress=False)
    expected = last_prints(run.folder)
    damage(run.folder / "checkpoints" / "12", how)
    with caplog.at_level(logging.WARNING):
        train(config, run.folder, progress=False)
    assert "checkpoints/12" in caplog.text
    assert "trying an older one" in caplog.text
    assert last_prints(run.folder) == expected


def test_a_refused_text_leaves_the_run_as_it_was(tmp_path):
    """The prepared corpus survives, so the run goes on, even where the text has gone."""
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


def test_a_cleared_corpus_is_prepared_again_from_the_same_text_only(tmp_path):
    config = configuration(tmp_path, steps=2)
    run = train(config, tmp_path / "run", progress=False)
    config = run.config
    further = replace(config, train=replace(config.train, steps=4))
    (run.folder / "corpus" / Receipt.FILE).unlink()  # its arrays are all that counts
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
def test_a_damaged_corpus_is_not_trained_on(tmp_path, where):
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    corpus = run.folder / "corpus" / "train"
    if where == "tokens":
        file = corpus / "source.tokens.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    else:
        file = corpus / "vocabulary.json"
        file.write_text(file.read_text().replace("w1", "x1"))
    with pytest.raises(CorpusError, match="train is damaged: its arrays or its vocabulary"):
        train(config, run.folder, progress=False)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    """config.json was lost and the folder is trained in anew with another seed."""
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    (run.folder / "config.json").unlink()
    other = replace(config, train=replace(config.train, seed=5))
    with pytest.raises(RunError, match="saved with another configuration or text"):
        train(other, run.folder, progress=False)


def test_averages_are_the_mean_and_heal(whole, tmp_path, caplog):
    _, config, run = whole
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


def test_two_jobs_on_one_folder(whole):
    _, config, run = whole
    before = (run.folder / "config.json").read_bytes()
    longer = replace(config, train=replace(config.train, steps=999))
    with locked(run.folder), pytest.raises(UserError, match="another job is training"):
        train(longer, run.folder, progress=False)
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path, whole, monkeypatch, number):
    """Stopped after step 10, between checkpoints; one more that is saved in between is no part."""
    _, config, run = whole
    step = Recorder.step

    def stop(self, number_of_step, *rest):
        step(self, number_of_step, *rest)
        if number_of_step == 9:  # metrics are read a step late
            signal.raise_signal(number)

    monkeypatch.setattr(Recorder, "step", stop)
    with pytest.raises(Stopped, match=f"{number.name} after step 10, .* --run-dir .*/run") as told:
        train(config, tmp_path / "run", progress=False)
    assert told.value.signal == number
    stopped = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    assert (stopped.steps(), stopped.due_steps()) == ([6, 10], [6])
    assert Translator.load(tmp_path / "run").checkpoint == "step 10"
    monkeypatch.undo()
    train(config, tmp_path / "run", progress=False)
    assert last_prints(tmp_path / "run") == last_prints(run.folder)
    records = [(f / "metrics.jsonl").read_text() for f in (tmp_path / "run", run.folder)]
    assert records[0] == records[1]
    kept = [Checkpoints(f / "checkpoints", read_only=True) for f in (tmp_path / "run", run.folder)]
    assert kept[0].steps() == kept[1].steps()


@pytest.mark.parametrize("kills, seed", [(2, 0), pytest.param(12, 1, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on(tmp_path, whole, kills, seed):
    """SIGKILL at random moments, then let it end: everything equals the uninterrupted run."""
    _, config, run = whole
    rng = random.Random(seed)
    line = command(tmp_path, config)
    for _ in range(kills):
        process = subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(3, 14))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(line, env=ENVIRONMENT, check=True, stderr=subprocess.DEVNULL)
    assert last_prints(tmp_path / "run") == last_prints(run.folder)
    metrics = [(f / "metrics.jsonl").read_text() for f in (tmp_path / "run", run.folder)]
    assert metrics[0] == metrics[1]
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))


def in_a_namespace(*lines):
    """Run a script that may mount what only it sees."""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", "\n".join(lines)],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    if done.stderr.startswith(("unshare", "mount")):
        pytest.skip("no mount namespaces here")
    return done


@pytest.mark.slow
def test_a_full_disk_ends_with_one_message_and_harms_nothing(tmp_path, whole):
    """A disk of 1.2 MB takes a few checkpoints; with more room the run goes on."""
    folder = tmp_path / "small"
    folder.mkdir()
    (tmp_path / "given.json").write_text(whole[1].to_json())
    keep = ["--keep-last", "6"]
    train = f"{sys.executable} -m transformer_jax.cli train --run-dir {folder}/run"
    done = in_a_namespace(
        f"mount -t tmpfs -o size=1200k tmpfs {folder}",
        f"{train} --config {tmp_path}/given.json {' '.join(keep)}; echo train $?",
        f"{sys.executable} -m transformer_jax.cli inspect --run-dir {folder}/run",
        f"mount -o remount,size=20m {folder}",
        f"{train}; echo train $?",
        f"cp -r {folder}/run {tmp_path}",
    )
    shown = done.stdout.splitlines()
    assert [line for line in shown if line.startswith("train ")] == ["train 1", "train 0"]
    messages = [line for line in done.stderr.splitlines() if line.startswith("transformer-jax: ")]
    [message] = messages
    assert "small/run/checkpoints: no space left on the device" in message
    assert "Traceback" not in done.stderr
    sound = [line for line in shown if line.startswith("checkpoints/6: sound")]
    assert len(sound) == 1
    assert last_prints(tmp_path / "run") == last_prints(whole[2].folder)
    records = [(f / "metrics.jsonl").read_text() for f in (tmp_path / "run", whole[2].folder)]
    assert records[0] == records[1]


@pytest.mark.slow
def test_a_file_that_may_not_grow(tmp_path):
    (tmp_path / "given.json").write_text(configuration(tmp_path).to_json())
    cli = f"{sys.executable} -m transformer_jax.cli"
    script = f"ulimit -f 30; {cli} train --run-dir run --config given.json"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "run/checkpoints: [Errno 27] File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
