import json
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.handlers.json_checkpoint_handler import JsonCheckpointHandler

from transformer_jax.devices.layout import single_device_template
from transformer_jax.run.checkpoints import (
    Checkpoints,
    DamagedCheckpoint,
    _ignore_late_results,
)
from transformer_jax.run.retention import Retention


@pytest.fixture
def saved(tmp_path):
    """A checkpoint whose array is too large to lie inside orbax's own checksums."""
    values = np.random.default_rng(0).normal(size=(128, 129)).astype(np.float32)
    tree = {"small": jax.numpy.arange(3.0), "large": jax.numpy.asarray(values)}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, {"params": tree}, {"run_identity": "x"}, {"loss": float("nan")})
    checkpoints.close()
    return tmp_path / "checkpoints", tree


@pytest.mark.gpu
def test_checkpoint_round_trip(saved):
    folder, tree = saved
    template = {"params": single_device_template(tree)}
    items, meta = Checkpoints(folder, read_only=True).restore(7, template)
    for name in tree:
        np.testing.assert_array_equal(items["params"][name], tree[name])
    assert meta["run_identity"] == "x"
    assert meta["scores"] == {"loss": None}


def test_checkpoint_is_a_snapshot_of_its_step(tmp_path, monkeypatch):
    """Orbax writes in a thread, here only after training has gone on."""
    went_on, write = threading.Event(), JsonCheckpointHandler._save_fn

    async def write_late(self, *arguments):
        assert went_on.wait(60)
        return await write(self, *arguments)

    monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", write_late)
    pending, values = {"loss": 1.0}, np.zeros(2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"params": {"w": values}}, {"unlogged_sums": pending})
    pending["loss"] += 1.0
    values += 1.0
    went_on.set()
    checkpoints.wait()
    template = single_device_template({"w": jax.numpy.zeros(2)})
    items, meta = checkpoints.restore(1, {"params": template})
    assert meta["unlogged_sums"] == {"loss": 1.0}
    np.testing.assert_array_equal(items["params"]["w"], 0.0)
    checkpoints.close()


@pytest.mark.gpu
def test_flipped_bit_is_found_and_its_array_named(saved):
    folder, tree = saved
    file = max((folder / "7" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    assert len(content) > tree["large"].size * 3  # random floats hardly compress
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/7: params \['large'\] differs from"):
        Checkpoints(folder, read_only=True).restore(7, {"params": single_device_template(tree)})


def test_checkpoint_of_another_model_is_no_damage(saved):
    folder, tree = saved
    template = single_device_template({"small": tree["small"], "new": tree["small"]})
    with pytest.raises(DamagedCheckpoint, match=r"lack \[\"\['new'\]\"\] and have .*large"):
        Checkpoints(folder, read_only=True).restore(7, {"params": template})


def test_best_checkpoint_ignores_non_finite_scores(tmp_path):
    checkpoints = Checkpoints(tmp_path, Retention(9, best=lambda scores: -scores["loss"]))
    for step, loss in ((1, float("nan")), (2, 2.0), (3, 1.0), (4, 1.5)):
        checkpoints.save(step, {"params": {"w": jax.numpy.zeros(2)}}, {}, {"loss": loss})
    assert checkpoints.best_step() == 3
    checkpoints.close()
    retention = Retention(best=lambda scores: scores["loss"])
    assert Checkpoints(tmp_path, retention, read_only=True).best_step() == 2


@pytest.mark.parametrize(
    "changed",
    [{"unlogged_sums": "x"}, {"unlogged_sums": {"loss": "x"}}, {"newest_step": "x"},
     {"averaged_steps": 5}, {"data_order_digest": 1}, {"format": 99},
     {"scores": [1]}, {"scores": {"loss": "x"}}, {"fingerprints": {"params": 3}},
     {"fingerprints": None}, {"patience": 3}, {"patience": {}},
     {"patience": {"metric": "loss", "limit": 3, "evaluations_without_gain": "x", "best": None}}],
)  # fmt: skip
def test_metadata_of_wrong_type_is_damage(saved, changed):
    folder, _ = saved
    [note] = (folder / "7" / "meta").glob("metadata")
    note.write_text(json.dumps({**json.loads(note.read_text()), **changed}))
    with pytest.raises(DamagedCheckpoint, match=f"checkpoints/7: its {next(iter(changed))}"):
        Checkpoints(folder, read_only=True).metadata(7)


class _Late:
    """An object whose end raises an exception that nobody can catch."""

    def __init__(self, message):
        self.message = message

    def __del__(self):
        raise RuntimeError(self.message)


def test_damaged_file_hides_late_reads(saved, monkeypatch):
    """Orbax's other reads may end before the error arrives that is raised."""
    folder, tree = saved
    restore, reported = ocp.CheckpointManager.restore, []

    def damaged(self, step, args):
        if "params" in args:
            _Late("Event loop is closed")
            _Late("something else")
            raise ValueError("a read failed")
        return restore(self, step, args=args)

    monkeypatch.setattr(sys, "unraisablehook", lambda late: reported.append(str(late.exc_value)))
    monkeypatch.setattr(ocp.CheckpointManager, "restore", damaged)
    _ignore_late_results.cache_clear()
    checkpoints = Checkpoints(folder, read_only=True)
    with pytest.raises(DamagedCheckpoint, match="a read failed"):
        checkpoints.restore(7, {"params": single_device_template(tree)})
    _ignore_late_results.cache_clear()  # the hook of pytest comes back
    assert reported == ["something else"]
