"""Disks that are full, that may only be read, and that go."""

import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.small_job import ENVIRONMENT, PROGRAM, configuration, last_fingerprints
from transformer_jax import Translator
from transformer_jax.run.train import train


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
def test_disk_full_ends_with_one_message_and_no_damage(tmp_path, uninterrupted_run):
    """A disk of 1.2 MB takes a few checkpoints; with more room the run resumes."""
    folder = tmp_path / "small"
    folder.mkdir()
    (tmp_path / "given.json").write_text(uninterrupted_run[1].to_json())
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
    # In the words of the system, or ours where a thread of orbax met it first.
    assert re.search(r"small/run/checkpoints: no space left on (the )?device", message, re.I)
    assert "Traceback" not in done.stderr
    intact = [line for line in shown if line.startswith("checkpoints/6: intact")]
    assert len(intact) == 1
    assert last_fingerprints(tmp_path / "run") == last_fingerprints(uninterrupted_run[2].folder)
    records = [
        (f / "metrics.jsonl").read_text() for f in (tmp_path / "run", uninterrupted_run[2].folder)
    ]
    assert records[0] == records[1]


@pytest.mark.slow
def test_disk_file_size_limit(tmp_path):
    (tmp_path / "given.json").write_text(configuration(tmp_path).to_json())
    cli = f"{sys.executable} -m transformer_jax.cli"
    script = f"ulimit -f 30; {cli} train --run-dir run --config given.json"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert done.returncode == 1
    # Python's words or tensorstore's, whichever came to its limit first.
    failed = r"a checkpoint cannot be written to .*/run/checkpoints: .*File too large"
    assert re.search(failed, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_disk_read_only_folder(tmp_path, uninterrupted_run):
    """A run there translates; nothing trains, and one message says why."""
    (tmp_path / "given.json").write_text(uninterrupted_run[1].to_json())
    folder = tmp_path / "only"
    shutil.copytree(uninterrupted_run[2].folder, folder / "run")
    cli = f"{sys.executable} -m transformer_jax.cli"
    done = in_a_namespace(
        f"mount --bind {folder} {folder}",
        f"mount -o remount,ro,bind {folder}",
        f"{cli} train --run-dir {folder}/run --steps 30; echo exit $?",
        f"{cli} train --run-dir {folder}/new --config {tmp_path}/given.json; echo exit $?",
        f"{cli} prepare --output {folder}/new --config {tmp_path}/given.json; echo exit $?",
        f"{cli} average --run-dir {folder}/run; echo exit $?",
        f"echo w1 w2 | {cli} translate --run-dir {folder}/run; echo exit $?",
        f"{cli} inspect --run-dir {folder}/run | grep -c intact; echo exit $?",
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert codes == ["exit 1"] * 4 + ["exit 0"] * 2
    messages = [line for line in done.stderr.splitlines() if line.startswith("transformer-jax: ")]
    assert len(messages) == 4
    assert all("Read-only file system" in line and str(folder) in line for line in messages)
    assert "Traceback" not in done.stderr


GOES = """
import os, shutil
from transformer_jax.run import checkpoints
def gone(function):
    def wrapper(self, step, *rest, **options):
        if step == 12:
            self.wait()
            ACT
        return function(self, step, *rest, **options)
    return wrapper
checkpoints.Checkpoints.save = gone(checkpoints.Checkpoints.save)
from transformer_jax.terminal import command_errors
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run", "checkpoints", "read-only"])
def test_disk_folder_lost_during_a_save(tmp_path, uninterrupted_run, what):
    """Step 12 of 24 is being saved; the newest checkpoint before it stays readable."""
    config = uninterrupted_run[1]
    run = tmp_path / "run"
    kept = run / "checkpoints"
    act = {
        "run": f"shutil.rmtree({str(run)!r})",
        "checkpoints": f"shutil.rmtree({str(kept)!r})",
        "read-only": f"os.system('mount --bind {kept} {kept} && mount -o remount,ro,bind {kept}')",
    }[what]
    job = textwrap.indent(PROGRAM, "    ")
    program = GOES.replace("ACT", act) + f"with command_errors():\n{job}"
    (tmp_path / "wanted.json").write_text(config.to_json())
    (tmp_path / "job.py").write_text(program)
    done = in_a_namespace(
        f"{sys.executable} {tmp_path}/job.py {tmp_path}; echo exit $?",
    )
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("transformer-jax: ")]
    assert done.stdout.splitlines() == [f"exit {len(messages)}"]
    assert len(messages) == 1
    assert str(run) in messages[0]
    if what == "read-only":
        assert f"a checkpoint cannot be written to {kept}: " in messages[0]
        assert "Read-only file system" in messages[0]
        assert Translator.load(run).checkpoint == "step 6"
    train(config, run, progress=False)
    assert last_fingerprints(run) == last_fingerprints(uninterrupted_run[2].folder)
