"""Whatever is wrong with what a user gives, a command says it in one line and ends.

A case is (what is made in an empty folder, arguments, what the last line says); ./run is a trained
run.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.test_recovery import damage
from tests.small_job import ENVIRONMENT
from transformer_jax.cli import main

SMALL = ["--preset", "tiny", "--vocabulary", "whitespace", "--d-model", "16", "--num-heads", "2"]
TRAIN = ["train", "--run-dir", "new", "--train", "src", "tgt", *SMALL]
# On the run of another fixture, copied to ./run with its text.
GO_ON = ["train", "--run-dir", "run"]


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "transformer_jax.cli", *arguments],
        capture_output=True, text=True, env=ENVIRONMENT, **options,
    )  # fmt: skip


def write(name, content):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def text(source, target):
    """A function that writes both sides of ./src and ./tgt."""

    def make():
        write("src", source)
        write("tgt", target)

    return make


def config(change):
    """A function that changes the tree of run/config.json."""

    def make():
        path = Path("run/config.json")
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))

    return make


def damage_all():
    for step in Path("run/checkpoints").iterdir():
        damage(step, "truncated")
    shutil.rmtree("run/averaged")


def no_setup():
    pass


def run_command(arguments):
    """(exit code, lines before, the last line)"""
    done = command(*arguments, stdin=subprocess.DEVNULL)
    *before, last = done.stderr.splitlines()
    return done.returncode, before, last


def run_in_process(arguments, caplog):
    """As `run_command`, where everything is imported already."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return 1, caplog.messages, str(ended.value.code)


def bad_input(cases):
    """A test of each of these cases in this process, and (slow) of every third by the real command:
    what is real about it, the interpreter and its exit code, is the same for all."""
    here = [pytest.param(case, False, id=name) for name, case in cases.items()]
    real = [
        pytest.param(case, True, id=f"{name}, real", marks=pytest.mark.slow)
        for name, case in [*cases.items()][::3]
    ]
    return pytest.mark.parametrize(("case", "real"), here + real)


def check_one_message(case, real, tmp_path, caplog):
    """One message, no traceback, and nothing written or lost."""
    make, arguments, message = case
    make()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    run = run_command(arguments) if real else run_in_process(arguments, caplog)
    code, others, last = run
    assert code == 1
    assert last.startswith("transformer-jax: ")
    assert message.format(here=tmp_path) in last
    assert "\n" not in last
    warned = (
        "preparing ", "checkpoint ", "translating with ", "compiled programs are not kept: ",
        "the search was compiled as ",
    )  # fmt: skip
    assert not [line for line in others if not line.startswith(warned)]
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    new = {p.relative_to(tmp_path) for p in after.keys() - before.keys()}
    assert all(path.parts[0] == "cache" or path.name == "lock" for path in new)
    assert {p: after.get(p) for p in before} == before
