"""Checkpoints through orbax, each with a fingerprint of every array. The only orbax import.

Orbax restores a flipped byte without a word; `restore` recomputes the fingerprints and refuses.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from transformer_jax.errors import UserError
from transformer_jax.training.fingerprint import fingerprints

__all__ = ["Checkpoints", "DamagedCheckpoint"]

# Orbax logs failures that are raised as exceptions too; those reach the user once, in our words.
logging.getLogger("absl").setLevel(logging.CRITICAL)

DELETED = "deleted"


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was saved; the message names the array or the file."""


class _Keep:
    """Preservation policy: the newest, every n-th, and the best by score."""

    def __init__(self, last: int, every: int | None, scores: dict[int, float]):
        self.last, self.every, self.scores = last, every, scores

    def should_preserve(self, checkpoints, *, context):
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(steps[-self.last :]) | {s for s in steps if self.every and s % self.every == 0}
        scored = [s for s in steps if s in self.scores]
        if scored:
            kept.add(max(scored, key=lambda s: (self.scores[s], s)))
        return [step in kept for step in steps]


class Checkpoints:
    """Numbered checkpoints in a folder; each is a few named pytrees and a dict of metadata."""

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 1,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        self._folder = folder.absolute()
        self._scores: dict[int, float] = {}
        if not read_only:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Keep(keep_last, keep_every, self._scores),
            # A half-deleted folder would still be listed: rename first, delete later.
            todelete_subdir=None if read_only else DELETED,
            read_only=read_only,
            enable_async_checkpointing=not read_only,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        for step in self.steps():
            try:
                score = self.metadata(step).get("score")
            except DamagedCheckpoint:
                continue
            if score is not None:
                self._scores[step] = score

    def _sweep(self):
        """Remove what killed saves and deletions left behind."""
        for path in [*self._folder.glob("*.orbax-checkpoint-tmp*"), self._folder / DELETED]:
            shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the highest score among those saved with one."""
        return max(self._scores, key=lambda s: (self._scores[s], s)) if self._scores else None

    def save(
        self, step: int, items: Mapping[str, Any], metadata: dict, score: float | None = None
    ) -> None:
        """Start to save; returns once the arrays are copied and may be overwritten.

        `score` (higher is better) makes the checkpoint a candidate for the best one.
        """
        shutil.rmtree(self._folder / DELETED, ignore_errors=True)
        prints = {name: fingerprints(tree) for name, tree in items.items()}
        meta = {**metadata, "step": step, "score": score, "fingerprints": prints}
        if score is not None:
            self._scores[step] = score
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        arguments = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=arguments, force=True)

    def metadata(self, step: int) -> dict:
        """The metadata given to `save`, with step, score and fingerprints."""
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )
            meta = restored.meta
            if not isinstance(meta, dict) or "fingerprints" not in meta:
                raise ValueError("its metadata are incomplete")
        except Exception as error:  # orbax raises many kinds for damaged files
            raise DamagedCheckpoint(f"checkpoint {self._folder / str(step)}: {error}") from None
        return meta

    def restore(self, step: int, templates: Mapping[str, Any]) -> tuple[dict[str, Any], dict]:
        """(the named trees, metadata) of a checkpoint.

        `templates` holds trees of jax.ShapeDtypeStruct, with shardings where wanted. A
        file that is missing or unreadable, or an array that differs from what was saved, raises
        DamagedCheckpoint.
        """
        meta = self.metadata(step)
        where = f"checkpoint {self._folder / str(step)}"
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in templates.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except Exception as error:  # orbax raises many kinds for damaged files
            raise DamagedCheckpoint(f"{where}: {error}") from None
        items = {name: restored[name] for name in templates}
        for name, tree in items.items():
            found, saved = fingerprints(tree), meta["fingerprints"].get(name, {})
            wrong = [path for path in found if saved.get(path) != found[path]]
            if wrong or set(saved) != set(found):
                names = ", ".join(wrong[:3]) or "the set of arrays"
                raise DamagedCheckpoint(
                    f"{where}: {name} {names} differs from the fingerprint taken when it was saved"
                )
        return items, meta

    def discard_after(self, step: int) -> None:
        """Remove checkpoints newer than `step`: damaged ones stand in the way of new saves."""
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)
            self._scores.pop(newer, None)

    def wait(self) -> None:
        """Until every started save is finished."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def on_device(tree):
    """Shapes of a tree with the first device as their place, as `restore` wants them."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
