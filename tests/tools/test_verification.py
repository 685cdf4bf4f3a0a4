"""verify-resume proves what it says: it sees a seed, an order or an optimizer that goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.small_job import configuration
from transformer_jax import OptimizerConfig
from transformer_jax.commands.verify_resume import VerifyResumeCommand
from transformer_jax.errors import UserError
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.folder import Run
from transformer_jax.tools.verification import (
    ResumeReport,
    Topology,
    TopologyReport,
    _job,
    read_fingerprints,
)

PACKAGE = Path(__file__).parents[2] / "transformer_jax"


# Lines of the package that verify-resume must see broken, and where it must see it.
BROKEN = [
    (
        "training/step.py", "seed_key(seed), state.step)",
        "seed_key(seed + __import__('os').getpid()), state.step)",
        ["parameters", "optimizer", "metrics.jsonl"],
    ),
    (
        "run/train.py", "Prefetch(micro_batches, first,",
        "Prefetch(lambda step: micro_batches(step - first), first,",
        ["parameters", "optimizer", "data", "metrics.jsonl"],
    ),
    (
        "training/metrics.py", 'json.loads(line)["step"] <= step', "json.loads(line)",
        ["metrics.jsonl"],
    ),
]  # fmt: skip


def changed_names(one, other):
    before = read_fingerprints(one)
    return [name for name, value in read_fingerprints(other).items() if value != before[name]]


def test_fingerprints_of_a_run_see_every_change(uninterrupted_run, tmp_path):
    one = uninterrupted_run[2].folder
    other = shutil.copytree(one, tmp_path / "run")
    assert read_fingerprints(one) == read_fingerprints(other)
    assert set(read_fingerprints(one)) == {
        "update", "parameters", "optimizer", "data order", "metrics.jsonl",
    }  # fmt: skip
    meta = Checkpoints(other / "checkpoints", read_only=True).metadata(24)
    [note] = (other / "checkpoints" / "24" / "meta").glob("metadata")
    for path, name in (
        (["fingerprints", "params", "['embedding']"], "parameters"),
        (["fingerprints", "optimizer", "['step']"], "optimizer"),
        (["data_order_digest"], "data order"),
    ):
        tree = json.loads(json.dumps(meta))
        place = tree
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "0" * 8
        note.write_text(json.dumps(tree))
        changed = changed_names(one, other)
        assert changed == [name]
    note.write_text(json.dumps(meta))
    (other / "metrics.jsonl").write_text("")
    assert changed_names(one, other) == ["metrics.jsonl"]


def test_resume_report_shows_each_value():
    verdict = ResumeReport({"parameters": ("aa", "aa"), "data order": ("bb", "cc")}, [3, 8])
    assert not verdict.passed
    assert str(verdict).splitlines() == [
        "            never killed  killed after updates 3, 8",
        "parameters  aa            aa                         equal",
        "data order  bb            cc                         DIFFERENT",
        "killed jobs DO NOT resume exactly",
    ]


def test_verify_resume_reports_differences_between_topologies():
    def moved(order, difference):
        return TopologyReport(["1", "2x4"], ("aa", order), {7: 0.0, 8: difference, 9: 2e-5})

    assert moved("aa", 9e-5).passed
    assert not moved("aa", 2e-4).passed
    assert not moved("bb", 0.0).passed
    assert str(moved("aa", 9e-5)) == (
        "moved over 1 -> 2x4: the same sentences, every checkpoint restored with its fingerprints, "
        "losses within 9.0e-05 (allowed: 1e-04)"
    )
    assert "OTHER SENTENCES" in str(moved("bb", 0.0))
    assert "within 2.0e-04 (allowed: 1e-04, beyond it from update 8 on)" in str(moved("aa", 2e-4))


def test_topologies():
    assert Topology.parse("8") == Topology(1, 8)
    assert Topology.parse("2x4:fsdp=2,tensor=2") == Topology(2, 4, "fsdp=2,tensor=2")
    options = list(Topology(2, 4).options())
    assert [each[-1] for each in options] == ["0", "1"]
    assert len({each[1] for each in options}) == 1
    assert list(Topology(1, 8).options()) == [[]]
    environment = Topology(1, 3).environment()
    assert environment["XLA_FLAGS"].count("device_count") == 1
    assert environment["XLA_FLAGS"].endswith("device_count=3")
    for wrong in ("0", "2x", "x4", "2x4x2", "8:model=2", "-1"):
        with pytest.raises(UserError, match=r"is not a topology: write 8|model=2' is invalid"):
            Topology.parse(wrong)


def verify(folder, package, code, *options):
    """(what the command prints, its messages), with the package that lies in a folder.

    The learning rate is such that training is no chaos: 0.05, as of the other small jobs, makes
    1e-3 of a difference in the last bit within 40 updates.
    """
    config = replace(configuration(folder), optimizer=OptimizerConfig(warmup_steps=400))
    (folder / "given.json").write_text(config.to_json())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "transformer_jax.cli", "verify-resume", "--output", "runs"),
            *("--config", "given.json", "--updates", "40", "--kills", "2", *options),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_verify_resume_jobs_end_with_their_parent(tmp_path, uninterrupted_run):
    """verify-resume that is stopped leaves nothing behind."""
    (tmp_path / "config.json").write_text(uninterrupted_run[1].to_json())
    with pytest.raises(KeyboardInterrupt), _job(tmp_path, "run") as job:
        raise KeyboardInterrupt
    assert job.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_verify_resume_passes(tmp_path):
    shown, _ = verify(tmp_path, PACKAGE.parent, 0, "--topologies", "1", "2x4", "4:fsdp=2,tensor=2")
    *lines, moved = shown.splitlines()
    assert moved.startswith(
        "moved over 1 -> 2x4 -> 4:fsdp=2,tensor=2: the same sentences, every checkpoint restored "
    )
    assert re.search(r"killed after updates \d+, \d+$", lines[0])
    assert [line.split()[-1] for line in lines[1:-1]] == ["equal"] * 5
    assert lines[-1] == "killed jobs resume exactly"


@pytest.mark.slow
def test_verify_resume_passes_across_a_change_of_the_optimizer(tmp_path):
    """The second kill is after the change, before a checkpoint with the new settings."""
    shown, _ = verify(tmp_path, PACKAGE.parent, 0, "--change-optimizer", "--seed", "3")
    assert [line.split()[-1] for line in shown.splitlines()[1:-1]] == ["equal"] * 5
    first, second = map(int, re.findall(r"\d+", shown.splitlines()[0]))
    assert first < 20 < second < 30
    for name in ("whole", "killed"):
        run = Run.open(tmp_path / "runs" / name)
        assert [(change.step, change.before.lr_factor) for change in run.changes] == [(20, 1.0)]
        assert run.config.optimizer.lr_factor == 0.5


def test_verify_resume_makes_one_proof_at_a_time(tmp_path):
    command = VerifyResumeCommand(tmp_path / "new", change_optimizer=True, topologies=("1",))
    with pytest.raises(UserError, match="ask for one at a time"):
        command.run()


@pytest.mark.slow
@pytest.mark.parametrize("file, line, broken, different", BROKEN)
def test_verify_resume_fails_on_a_broken_package(tmp_path, file, line, broken, different):
    copy = shutil.copytree(PACKAGE, tmp_path / "broken" / "transformer_jax")
    source = (copy / file).read_text()
    assert source.count(line) == 1
    (copy / file).write_text(source.replace(line, broken))
    shown, errors = verify(tmp_path, tmp_path / "broken", 1)
    rows = [row.split() for row in shown.splitlines()[1:-1]]
    assert [row[0] for row in rows if row[-1] == "DIFFERENT"] == different
    assert errors.splitlines()[-1] == (
        "transformer-jax: killed jobs do not resume exactly; both runs are in runs"
    )
