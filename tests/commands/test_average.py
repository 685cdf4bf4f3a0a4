"""average takes chosen checkpoints, and leaves damaged ones out."""

import jax
import numpy as np
import pytest

from tests.run.test_recovery import damage
from transformer_jax import Translator


def test_average_of_chosen_checkpoints(command, run):
    steps = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]
    command("average", "--run-dir", run, "--steps", min(steps), max(steps))
    found, *parts = (
        Translator.load(run, name).params for name in ("averaged", str(min(steps)), str(max(steps)))
    )
    for mean, first, last in zip(*map(jax.tree.leaves, (found, *parts))):
        np.testing.assert_allclose(mean, (first + last) / 2, atol=1e-7)
    # The oldest alone is what the run translates with from now on, until it is trained further.
    command("average", "--run-dir", run, "--steps", min(steps))
    assert Translator.load(run).checkpoint == f"averaged at step {min(steps)}"


def test_average_skips_damaged_checkpoint(command, run, caplog):
    damage(run / "checkpoints" / "18", "flipped")
    assert "mean of 12, 24" in command("average", "--run-dir", run, "--last", 3)
    assert "checkpoints/18: " in caplog.text
    assert "averaged without it" in caplog.text
    for step in (6, 12, 24):
        damage(run / "checkpoints" / str(step), "flipped")
    with pytest.raises(SystemExit, match="has no intact checkpoint: no parameters to average"):
        command("average", "--run-dir", run)
    assert "averaged/24: intact, mean of 12, 24" in command("inspect", "--run-dir", run)
