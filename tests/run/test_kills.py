"""SIGKILL at named points and at random moments: a run resumes as if nothing had been."""

import random
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from tests.small_job import ENVIRONMENT, command, configuration, last_fingerprints
from transformer_jax import Translator
from transformer_jax.run.folder import Run
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.names import DELETED
from transformer_jax.run.train import train

# What a job runs first, so that it kills itself.
HOOKS = """
import functools, os, shutil, signal
import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import async_path, deleter
from orbax.checkpoint._src.serialization import ocdbt_utils
from transformer_jax import files
from transformer_jax.run import checkpoints, names
from transformer_jax.data import corpus
from transformer_jax.training import metrics

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at(owner, name, call, first=lambda *arguments, **options: None, when=lambda *arguments: True):
    function, calls = getattr(owner, name), 0

    @functools.wraps(function)
    def wrapper(*arguments, **options):
        nonlocal calls
        calls += when(*arguments)
        if calls == call and when(*arguments):
            first(*arguments)
            die()
        return function(*arguments, **options)

    static = isinstance(vars(owner)[name], staticmethod)
    setattr(owner, name, staticmethod(wrapper) if static else wrapper)

def write_half(file, record):
    file.write(b'{"step": 1, "lo')

def delete_half(folder, **options):
    shutil.rmtree(next(folder.glob("*/params")))
"""

# Name -> the hook; CALL is the number of the call that it dies at.
POINTS = {
    "first save": "at(ocp.CheckpointManager, 'save', 1)",
    "between metrics and save": "at(checkpoints.Checkpoints, 'save', CALL)",
    "in the middle of a record": "at(metrics.MetricsWriter, '_write', CALL + 3, write_half)",
    "in the middle of a write": "at(ocdbt_utils, 'merge_ocdbt_per_process_files', CALL)",
    "before the rename": "at(async_path, 'rename', CALL)",
    "before an old step is pruned": (
        "at(deleter.StandardCheckpointDeleter, '_rename_step_to_subdir', CALL)"
    ),
    "while an old step is pruned": (
        "at(shutil, 'rmtree', CALL, delete_half, lambda folder, *rest: any(folder.glob('*/params'))"
        " and folder.name == names.DELETED)"
    ),
}
OUTSIDE_TRAINING = {
    "before an array of the corpus is written": "at(corpus.np, 'save', CALL)",
    "before config.json is there": (
        "at(files.os, 'replace', 1, when=lambda old, new: new.name == 'config.json')"
    ),
    "between the old average and the new one": (
        "at(checkpoints.Checkpoints, 'save', CALL,"
        " when=lambda self, *rest: self._folder.name == 'averaged')"
    ),
}


def written(records):
    """(which file, lines in it): a job that resumes makes a new file of the records that hold."""
    return (
        (records.stat().st_ino, records.read_bytes().count(b"\n")) if records.exists() else (0, 0)
    )


def killed(line, records=None, lines=0):
    """Run a job that kills itself, or is killed when it has written `lines` records; was it?"""
    before, start = written(records)[0] if records else 0, None
    with subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        while records and process.poll() is None:
            file, count = written(records)
            if file != before:
                start = count if start is None else start
                if count >= start + lines:
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.001)
        errors = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode != 0


def check_what_is_there(folder):
    """Everything that is offered is whole."""
    if Run.exists(folder):
        assert "DAMAGED" not in describe_run(folder)
        if Run.open(folder).checkpoints(read_only=True).steps():
            Translator.load(folder)


def check_end(folder, uninterrupted_run):
    assert last_fingerprints(folder) == last_fingerprints(uninterrupted_run)
    metrics = [(f / "metrics.jsonl").read_text() for f in (folder, uninterrupted_run)]
    assert metrics[0] == metrics[1]
    averages = [Translator.load(f) for f in (folder, uninterrupted_run)]
    assert averages[0].checkpoint == averages[1].checkpoint
    names = [path.name for path in folder.rglob("*")]
    assert not [n for n in names if n == DELETED or "orbax-checkpoint-tmp" in n or "partial" in n]


def kill_and_go_on(folder, config, moments, record_property):
    """(point, call) or ("random moment", records), one after another in a run; all are counted."""
    hooks = {**POINTS, **OUTSIDE_TRAINING}
    for point, number in moments:
        if point in hooks:
            before = f"{HOOKS}\n{hooks[point].replace('CALL', str(number))}\n"
            hit = killed(command(folder, config, before))
        else:
            hit = killed(command(folder, config), folder / "run" / "metrics.jsonl", number)
        assert hit, f"{point}, {number}, never came"
        record_property("killed", point)
        check_what_is_there(folder / "run")
    assert not killed(command(folder, config))


def test_kill_and_resume(tmp_path, uninterrupted_run, record_property):
    _, config, run = uninterrupted_run
    config = replace(config, train=replace(config.train, keep_last=2))
    moments = [
        ("first save", 1),
        ("in the middle of a write", 2),
        ("before an old step is pruned", 1),
    ]
    kill_and_go_on(tmp_path, config, moments, record_property)
    check_end(tmp_path / "run", run.folder)


@pytest.fixture(scope="session")
def longer(tmp_path_factory):
    """A run of 60 saves that nothing interrupted."""
    folder = tmp_path_factory.mktemp("longer")
    config = configuration(folder, steps=240, checkpoint_every=4, evaluate_every=16, keep_last=3)
    return config, train(config, folder / "run", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kill_ten_times_and_resume(tmp_path, longer, record_property, seed):
    """Each of the points, two random moments, and one outside training; 40 kills in all."""
    config, run = longer
    cache = str(tmp_path / "cache")  # so that the text is prepared anew
    config = replace(config, data=replace(config.data, cache_dir=cache))
    rng = random.Random(seed)
    outside = list(OUTSIDE_TRAINING)[seed % len(OUTSIDE_TRAINING)]
    first, *points = POINTS
    moments = [(point, rng.randint(1, 3)) for point in points]
    moments += [("random moment", rng.randint(1, 4)) for _ in range(2)]
    rng.shuffle(moments)
    moments.insert(0, (first, 1))
    early = "average" not in outside
    moments.insert(0 if early else len(moments), (outside, 1))
    assert len(moments) == 10
    kill_and_go_on(tmp_path, config, moments, record_property)
    check_end(tmp_path / "run", run.folder)
