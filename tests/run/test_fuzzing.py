"""Configurations, vocabularies and checkpoints are data: edited at random they raise an error."""

import json
import subprocess
import sys

import jax
import pytest

from tests.small_job import ENVIRONMENT
from tests.weights.folders import MAKERS
from transformer_jax.errors import UserError
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.retention import Retention

EDITS = 10_000
KINDS = ("configuration", "whitespace", "bpe", "checkpoint")


def fuzz(folder, kind, edits, seed):
    """How many edits are refused; none crashes, hangs, runs, writes, or gives what was not."""
    line = ["-m", "tests.fuzzing", kind, str(folder / "inside"), str(edits), str(seed)]
    done = subprocess.run([sys.executable, *line], capture_output=True, env=ENVIRONMENT, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:].decode(errors="replace")
    assert [path.name for path in folder.iterdir()] == ["inside"]
    return json.loads(done.stdout)["refused"]


def test_fuzzing_some_edits(tmp_path):
    for kind, edits in zip(KINDS, (200, 200, 200, 30)):
        (tmp_path / kind).mkdir()
        assert edits / 10 < fuzz(tmp_path / kind, kind, edits, seed=0) < edits


def test_fuzzing_a_foreign_model(tmp_path):
    assert 10 < fuzz(tmp_path, "fairseq", 100, seed=0) < 100


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_fuzzing_ten_thousand_edits(tmp_path, kind, seed):
    assert EDITS / 20 < fuzz(tmp_path, kind, EDITS // 2, seed) < EDITS / 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [*MAKERS, "single file"])
def test_fuzzing_five_thousand_edits_of_each_file_of_a_format(tmp_path, kind):
    """Each format has two kinds of files: of 8 bits or floats, old or new, zipped or not."""
    assert EDITS / 40 < fuzz(tmp_path, kind, EDITS // 2, seed=1) < EDITS / 2


def test_fuzzing_damaged_orbax_metadata_is_quarantined(tmp_path):
    """It would keep every checkpoint from being read."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", Retention(2))
    for step in (3, 5):
        checkpoints.save(step, {"params": {"w": jax.numpy.ones(2)}}, {})
    checkpoints.close()
    note = tmp_path / "checkpoints" / "5" / "_CHECKPOINT_METADATA"
    note.write_text(json.dumps({**json.loads(note.read_text()), "metrics": 5}))
    with pytest.raises(UserError, match=r"checkpoints/5: .*; move that folder away"):
        Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [3]
    assert (tmp_path / "damaged" / "5").is_dir()
