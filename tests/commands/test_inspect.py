"""inspect shows what is in a run."""

import json
import shutil

import jax

from tests.run.test_recovery import damage
from transformer_jax import Translator
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.inspect import describe_run


def test_inspect_shows_fields_parameters_and_checkpoints(command, run):
    shown = command("inspect", "--run-dir", run).splitlines()
    assert "model.d_model = 16" in shown
    assert "optimizer.warmup_steps = 20" in shown
    vocabulary = len(Translator.load(run).vocabulary)
    [table] = [line for line in shown if line.startswith("embedding")]
    assert table.split() == ["embedding", str(vocabulary), "x", "16", f"{vocabulary * 16:,}"]
    params = Translator.load(run).params
    [total] = [line for line in shown if line.startswith("all ")]
    assert total.split()[1] == f"{sum(x.size for x in jax.tree.leaves(params)):,}"
    assert [line.split(",")[0] for line in shown if line.startswith("checkpoints/")] == [
        f"checkpoints/{step}: intact"
        for step in (6, 12, 18, 24)
        if (run / f"checkpoints/{step}").exists()
    ]
    assert "averaged/24: intact, mean of 18, 24" in shown
    damage(run / "checkpoints" / "24", "flipped")
    assert "checkpoints/24: DAMAGED: " in command("inspect", "--run-dir", run)


def test_inspect_while_a_job_replaces_checkpoints(run, monkeypatch):
    """A step that was listed and is gone when it is read has not been damaged."""
    restore = Checkpoints.restore

    def replaced(self, step, templates):
        shutil.rmtree(run / "checkpoints" / "12", ignore_errors=True)
        return restore(self, step, templates)

    monkeypatch.setattr(Checkpoints, "restore", replaced)
    shown = describe_run(run)
    assert "checkpoints/24: intact" in shown
    assert "checkpoints/12" not in shown


def test_inspect_other_shows_differences(command, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    assert "have the same fields" in command("inspect", "--run-dir", run, "--other", other)
    tree = json.loads((other / "config.json").read_text())
    tree["config"]["model"]["d_ff"] = 31
    tree["config"]["optimizer"]["beta2"] = 0.9
    (other / "config.json").write_text(json.dumps(tree))
    shown = command("inspect", "--run-dir", run, "--other", other).splitlines()
    assert shown[:2] == [
        f"model.d_ff: 32 in {run}, 31 in {other}",
        f"optimizer.beta2: 0.98 in {run}, 0.9 in {other}",
    ]
    assert len([line for line in shown if line.startswith("parameter ")]) == 2 * 3
