"""benchmarks.accelerator: numbers of the CPU that recorded them, phases, its account."""

import json
import math
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from benchmarks import golden
from benchmarks.accelerator import (
    PATIENCE,
    ROOT,
    Report,
    _in_its_own_process,
    machine,
    main,
    measurements,
)
from benchmarks.account import account
from experiments.ledger import entries, write_entry
from transformer_jax.errors import UserError


@pytest.mark.parametrize("dtype", golden.LIMITS)
def test_recorded_numbers_are_those_of_the_code(dtype):
    compared = list(golden.compare(dtype))
    assert [each.name for each in compared if not each.holds] == []
    names = {each.name for each in compared}
    assert {"logits", "loss", "gradient embedding"} <= names
    assert ("beam tokens" in names) == (dtype == "float32")


def test_distance_of_nan_does_not_pass():
    assert golden.Comparison("", 1e-4, 1e-4).holds
    assert not golden.Comparison("", math.nan, 1e-4).holds
    assert not golden.Comparison("", 2e-4, 1e-4).holds


MACHINE = {
    "command": "python -m benchmarks.accelerator",
    "commit": "abc",
    "machine": "x86_64, 16 cores, 1 x SOME GPU",
    "versions": {"jax": "0.11.2"},
    "seconds": 2.0,
}


def write_phases(folder, **phases):
    for name, found in phases.items():
        (folder / f"{name}.json").write_text(json.dumps(MACHINE | found))


def test_account_reports_results_and_unfinished_phases(tmp_path):
    speed = {"target_tokens_per_second": 500.4, "seconds_per_step": 0.05, "compile_seconds": 7.0}
    numbers = {"compared": 3, "farthest": {"loss": 1e-6, "logits": 2e-5}}
    write_phases(
        tmp_path,
        check={"ended": True, "float32": numbers, "tests": ["", "== 9 passed =="], "tests_code": 0},
        train={
            "ended": False,
            "peak": 4e12,
            "base, ours": speed | {"share_of_peak": 0.25, "memory": {"peak": 3e9}},
            "base, torch": {"skipped": "no time was left"},
            "failed": ["float32 loss"],
        },
        resume={
            "default": {
                "environment": {"A": "1"},
                "whole runs differ in": [],
                "killed run differs in": ["parameters"],
            },
            "ended": True,
        },
    )
    (tmp_path / "decode.json").write_text('{"ended": false, "skipped": "no time was left"}')
    entry = account(tmp_path, commit="def", note="Told beside.")
    assert entry.title == "Checked and measured on SOME GPU"
    assert (entry.where.commit, entry.where.seconds) == ("def", 6.0)
    assert entry.missing == (
        "phases without an end: train, decode; train: float32 loss; "
        "base, torch: no time was left. "
        "Told beside."
    )
    checks, resumed, trained = entry.tables
    assert checks.rows == [
        ["float32", 3, "2.0e-05", "1e-04"],
        ["pytest -m gpu", None, "9 passed", "none fails"],
    ]
    assert resumed.rows == [["default", "A=1", "nothing", "parameters"]]
    assert trained.rows == [["base, ours", 500, 50.0, 25.0, 7.0, 3.0]]
    assert entries_of(tmp_path / "ledger", entry) == entry


def entries_of(folder, entry):
    write_entry("one", entry, folder)
    return entries(folder)["one"]


def test_account_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no result of a phase: name the --output"):
        account(tmp_path)


def test_account_of_small_sizes_is_refused(tmp_path):
    write_phases(tmp_path, train={**machine(tiny=True), "ended": True})
    with pytest.raises(UserError, match=r"train ran with --tiny, to be tried, and measured noth"):
        account(tmp_path)
    write_phases(tmp_path, train={**machine(tiny=False), "ended": True})
    assert account(tmp_path).where.command == "python -m benchmarks.accelerator"


def accelerator(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.accelerator", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_phases_without_time_are_skipped_and_say_so(tmp_path):
    done = accelerator("--minutes", 0.1, "--output", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        "check", "resume", "train", "decode",
    }  # fmt: skip
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text()) == {"ended": False, "skipped": "no time was left"}


def test_phase_out_of_time_keeps_its_results(tmp_path, capsys):
    Report(tmp_path / "check.json", deadline=0.0, tiny=True).add({"found": 1})
    start = time.monotonic()
    _in_its_own_process("check", tmp_path, start - PATIENCE, True, None)
    assert time.monotonic() - start < 20
    assert capsys.readouterr().err == "check ran out of time\n"
    assert json.loads((tmp_path / "check.json").read_text())["found"] == 1


@pytest.mark.parametrize(
    "found, bad",
    [
        ({"ended": True, "failed": []}, False),
        ({"ended": True, "failed": ["float32 loss"]}, True),
        ({"ended": False}, True),  # killed, or it broke
        (None, True),  # before it wrote anything: what an earlier run found does not count
    ],
)
def test_exit_code_reports_failures(found, bad, tmp_path, monkeypatch):
    def phase(name, output, *_):
        if found is not None:
            (output / f"{name}.json").write_text(json.dumps(found))

    (tmp_path / "check.json").write_text('{"ended": true}')
    monkeypatch.setattr("benchmarks.accelerator._in_its_own_process", phase)
    monkeypatch.setattr(sys, "argv", ["", "--phases", "check", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="without an end: check") if bad else nullcontext():
        main()


def test_measurements_without_time_are_named(tmp_path):
    report = Report(tmp_path / "train.json", deadline=0.0, tiny=True)
    found = list(measurements(report, "training", ("base", "big"), {"no such package": "nosuch"}))
    assert found == [(size, "ours", {"skipped": "no time was left"}) for size in ("base", "big")]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--minutes", "-1"], "--minutes"),
        (["--minutes", "nan"], "--minutes"),
        (["--phases", "chekc"], "'check'"),
        (["--phases", "multi30k", "--data", "nowhere"], "nowhere is no folder"),
        (["--output", "setup.cfg"], "setup.cfg: File exists"),
    ],
)
def test_accelerator_bad_arguments_get_one_message(arguments, said):
    done = accelerator(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
