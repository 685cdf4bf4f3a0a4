"""Machines and programs around a job that are not as one would expect."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.small_job import ENVIRONMENT, configuration, read_jsonl
from transformer_jax import Translator, __version__
from transformer_jax.cli import main
from transformer_jax.data.corpus import CorpusError
from transformer_jax.data.datasets import load_dataset
from transformer_jax.data.preparation import cache_folder
from transformer_jax.devices.signals import deferred_signals
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.train import train
from transformer_jax.training.metrics import MetricsWriter
from transformer_jax.visualization.schedule import rates

# What importing every module leaves behind, but for what NumPy and requests set up for themselves.
IMPORTS = """
import importlib, logging, pkgutil, signal, sys, warnings
import numpy, requests, numpy.random, numpy.polynomial

def state():
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return [*map(str, warnings.filters)], logging.root.handlers[:], logging.root.level, \\
        sys.excepthook, sys.unraisablehook, signals

before = state()
import transformer_jax
for module in pkgutil.walk_packages(transformer_jax.__path__, "transformer_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = state()
for old, new in zip(before, after):
    assert old == new, (old, new)
"""


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True, text=True, env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_import_leaves_nothing_behind():
    done = run(["-c", IMPORTS])
    assert done.returncode == 0, done.stderr[-2000:]


def test_version_is_printed(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"transformer-jax {__version__}\n"
    assert run(["-m", "transformer_jax"], "--version").stdout == f"transformer-jax {__version__}\n"


@pytest.mark.parametrize(
    "platform",
    [pytest.param("cuda", marks=pytest.mark.skipif("jax.default_backend() != 'cpu'")), "abacus"],
)
@pytest.mark.parametrize("command", ["translate", "inspect", "schedule"])
def test_device_not_available_is_reported(uninterrupted_run, command, platform):
    arguments = [command, "--run-dir", str(uninterrupted_run[2].folder)]
    if command == "schedule":
        arguments = [command]
    done = run(["-m", "transformer_jax"], *arguments, JAX_PLATFORMS=platform)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"transformer-jax: JAX finds no device: JAX_PLATFORMS is '{platform}'; unset" in last
    assert "Traceback" not in done.stderr


def test_home_folder_is_not_needed(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.delenv("TRANSFORMER_JAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(CorpusError, match=r"no home folder .* --cache-dir or \$TRANSFORMER_JAX"):
        cache_folder(None)
    assert cache_folder("/given") == Path("/given")


def test_dataset_is_prepared_by_a_user_without_a_name(monkeypatch, tmp_path):
    def getpwuid(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    (tmp_path / "text").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "text" / f"{split}.en").write_text("a b\n")
        (tmp_path / "text" / f"{split}.de").write_text("c d\n")
    found = load_dataset("text", "en-de", str(tmp_path / "text"), tmp_path / "cache")
    assert list(found["train"]) == [("a b", "c d")]


def test_terminal_loss_stops_a_job_like_sigterm():
    def own(number, frame):
        raise AssertionError("it was not noted")

    before = signal.signal(signal.SIGHUP, own)  # the suite itself may run under nohup
    try:
        with deferred_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received() == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) == own
    finally:
        signal.signal(signal.SIGHUP, before)


HUNG_UP = """
import os, pty, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
from transformer_jax.terminal import command_errors
main, terminal = pty.openpty()
os.dup2(terminal, 2)
os.close(main)
with command_errors():
    signal.raise_signal(signal.SIGHUP)
"""


def test_terminal_loss_ends_commands_in_order(tmp_path, monkeypatch):
    assert run(["-c", HUNG_UP]).returncode == 128 + signal.SIGHUP

    def gone(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    writer = MetricsWriter(tmp_path, log_every=1, total_steps=2)
    monkeypatch.setattr(writer._bar, "write", gone)
    writer.write_evaluation(1, {"validation_loss": 2.0}, 0.1)
    writer.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "validation_loss": 2.0}]


def test_nohup_is_respected(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received() is None
        main(["--version"])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_jax_strict_settings_end_no_job(uninterrupted_run, tmp_path):
    config = configuration(tmp_path, steps=2, best_metric="bleu", parallel="auto")
    expected = Translator.load(uninterrupted_run[2].folder).translate(["w1 w2"])
    with jax.numpy_dtype_promotion("strict"), jax.transfer_guard("disallow"):
        train(config, tmp_path / "run", progress=False)
        translator = Translator.load(uninterrupted_run[2].folder)
        assert translator.translate(["w1 w2"]) == expected
        assert translator.score(["w1"], ["W1"])[0] < 0
        assert translator.attention("w1", "W1").cross.ndim == 4
        assert "averaged/24: intact" in describe_run(uninterrupted_run[2].folder)
        assert rates(config)[-1][0] == 2
