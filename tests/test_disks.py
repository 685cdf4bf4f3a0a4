"""Disks that are full, that may only be read, and that go."""

import subprocess
import sys

import pytest

from tests.small_job import ENVIRONMENT, configuration, last_prints


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
