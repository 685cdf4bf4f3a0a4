"""What commands write, wherever it goes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_job import ENVIRONMENT
from transformer_jax.commands.output import check_writable


def test_output_may_be_a_named_pipe(tmp_path):
    read, written = os.pipe()
    check_writable(Path(f"/dev/fd/{written}"))
    check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    os.close(read)
    os.close(written)


def test_output_to_a_closed_pipe_ends_the_command(run, tmp_path):
    """As in `transformer-jax translate ... | head -1`."""
    (tmp_path / "in").write_text("w1 w2\n" * 3000)
    line = f"{sys.executable} -m transformer_jax.cli translate --run-dir {run} --method greedy"
    script = f"{line} < in | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert done.returncode == 128 + signal.SIGPIPE
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.splitlines()[-1] == "transformer-jax: the reader of the output has closed it"


@pytest.mark.parametrize(
    "redirection, message",
    [
        ("> /dev/full", "standard output cannot be written: No space left on device"),
        ("<&-", "there is no standard input: name a file with --input"),
        (">&-", "there is no standard output: name a file with --output"),
    ],
)
def test_output_to_unusable_standard_streams(run, tmp_path, redirection, message):
    (tmp_path / "in").write_text("w1 w2\n")
    line = f"{sys.executable} -m transformer_jax.cli translate --run-dir {run} --method greedy"
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", f"{line} < in {redirection}"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"transformer-jax: {message}"


def test_output_to_files_needs_no_standard_streams(run, tmp_path):
    (tmp_path / "in").write_text("w1 w2\n")
    line = f"{sys.executable} -m transformer_jax.cli translate --run-dir {run} --method greedy"
    script = f"{line} --input in --output out <&- >&-"
    subprocess.run(["bash", "-c", script], check=True, env=ENVIRONMENT, cwd=tmp_path)
    assert len((tmp_path / "out").read_text().splitlines()) == 1
