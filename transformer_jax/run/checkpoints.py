"""Checkpoints through orbax, each with a fingerprint of every array. The only orbax import.

Orbax restores a flipped byte silently; `restore` computes the fingerprints again and refuses.
"""

import contextlib
import copy
import functools
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from transformer_jax.devices.processes import all_agree, barrier, is_first, is_multi_process
from transformer_jax.errors import UserError
from transformer_jax.run.formats import (
    FORMAT,
    check_metadata,
    name_trees,
    rename_trees,
    upgrade_metadata,
)
from transformer_jax.run.names import DAMAGED, DELETED, step_folder
from transformer_jax.run.retention import Retention
from transformer_jax.training.fingerprint import fingerprints, leaf_paths

_root = logging.getLogger()
_before = _root.handlers[:]
import orbax.checkpoint as ocp  # noqa: E402

# Orbax gives every program that imports it a handler of its own at the root of all logs.
_root.handlers[:] = _before

__all__ = ["Checkpoints", "DamagedCheckpoint", "UnsavedCheckpoint"]

log = logging.getLogger(__name__)


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was saved; the message names the array or the file."""


class UnsavedCheckpoint(UserError):
    """A checkpoint that could not be written; those before it are unchanged."""


class Checkpoints:
    """Numbered checkpoints in a folder; each is a few named pytrees and a dict of metadata."""

    def __init__(
        self,
        folder: Path | epath.Path,
        retention: Retention | None = None,
        *,
        read_only: bool = False,
    ):
        """Open a folder of checkpoints.

        Args:
            folder: The folder, a local path or one of etils; made if it is missing.
            retention: Which checkpoints are kept; by default the newest alone.
            read_only: Whether to write nothing, not even to remove what killed saves left behind.
        """
        self._read_only = read_only
        self._retention = retention = retention or Retention()
        # What is no local path is etils'; a bucket is reached by its own file system alone.
        local = isinstance(folder, Path)
        self._folder: Any = folder.absolute() if local else folder
        self._failed = False
        _ignore_late_results()
        if is_first() or read_only:
            if not read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._remove_leftovers()
            self._check_orbax_metadata()
        if not read_only:
            barrier("checkpoints are swept")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=retention,
            # A half-deleted folder would still be listed: rename first, delete later.
            todelete_subdir=DELETED if local and not read_only else None,
            read_only=read_only,
            # What a read-only manager would warn that it does.
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
            enable_async_checkpointing=not read_only,
        )
        with _quiet():
            # A folder may be read in one process alone, where a shared manager would wait for all.
            shared = not (read_only and is_multi_process())
            self._manager = self._open(options) if shared else self._local_reader()
            self._reader = self._local_reader() if shared and is_multi_process() else self._manager
        for step in self.steps():
            try:
                meta = self.metadata(step)
            except DamagedCheckpoint:
                continue
            retention.note(step, meta["scores"], unscheduled=meta.get("unscheduled", False))

    def _local_reader(self):
        """Make a manager that reads without waiting for other processes.

        If one process finds a checkpoint damaged it leaves `restore` early, and with orbax's own
        manager the others would wait for it forever.
        """
        me = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            read_only=True,
            save_interval_steps=0,
            create=False,
            enable_async_checkpointing=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"reader{me}"
            ),
        )
        return self._open(options)

    def _open(self, options):
        return ocp.CheckpointManager(self._folder, options=options)

    def _remove_leftovers(self):
        """Remove what killed saves and deletions left behind."""
        for path in [*self._folder.glob("*.orbax-checkpoint-tmp*"), self._folder / DELETED]:
            _remove(path)

    def _check_orbax_metadata(self):
        """Move checkpoints away whose orbax metadata is damaged.

        Orbax reads the metadata of every step as it starts, and does not start if one is damaged.
        """
        for found in list(ocp.path.step.standard_name_format().find_all(str(self._folder))):
            try:
                _ = found.commit_timestamp
            except Exception as error:
                damaged = self._damaged(found.step, error)
                if self._read_only:
                    raise DamagedCheckpoint(f"{damaged}; move that folder away") from None
                log.warning("%s; moved to damaged/", damaged)
                self._quarantine(found.step)

    def steps(self) -> list[int]:
        """List the steps of the finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def scheduled_steps(self) -> list[int]:
        """List `steps` without the unscheduled ones, which only this run has."""
        return self._retention.scheduled(self.steps())

    def best_step(self) -> int | None:
        """Return the step of the checkpoint with the highest score, or None if none has one."""
        return self._retention.best_step()

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        metadata: dict,
        scores: Mapping[str, float] | None = None,
        *,
        unscheduled: bool = False,
    ) -> None:
        """Start to save; returns once everything given is copied and may be overwritten.

        Args:
            step: Number of the checkpoint.
            items: The trees by name.
            metadata: Values that JSON can hold, saved beside the trees.
            scores: Scores of the checkpoint, by which the best one is kept.
            unscheduled: Whether no schedule asked for it; the next save replaces it.

        Raises:
            UnsavedCheckpoint: It cannot be written.
        """
        # Orbax moves what it no longer keeps to DELETED while it finishes the save before this.
        self.wait()
        if is_first():
            with self._writing():
                # Where this fails orbax would leave threads that wait for minutes, or would make
                # a folder again that somebody has removed.
                probe = self._folder / f"{step}.orbax-checkpoint-tmp-probe"
                probe.mkdir()
                probe.rmdir()
            _remove(self._folder / DELETED)
        barrier(f"step {step} may be saved")
        scores = dict(scores or {})
        self._retention.note(step, scores, unscheduled=unscheduled)
        prints = {name: fingerprints(tree) for name, tree in items.items()}
        # JSON has no NaN.
        written = {name: v if math.isfinite(v) else None for name, v in scores.items()}
        meta = {**metadata, "format": FORMAT, "step": step, "scores": written}
        meta["fingerprints"] = prints
        meta |= {"unscheduled": True} if unscheduled else {}
        # Orbax copies arrays, but makes JSON of what it was handed later, in a thread.
        meta = copy.deepcopy(meta)
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        arguments = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))
        with self._writing():
            self._manager.save(step, args=arguments, force=True)

    def metadata(self, step: int) -> dict:
        """Read the metadata given to `save`, with step, scores and fingerprints.

        Raises:
            DamagedCheckpoint: They cannot be read.
        """
        try:
            restored = self._reader.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )
            meta = upgrade_metadata(restored.meta)
            check_metadata(meta)
        except Exception as error:
            raise self._damaged(step, error) from None
        return meta

    def restore(self, step: int, templates: Mapping[str, Any]) -> tuple[dict[str, Any], dict]:
        """Restore trees of a checkpoint and compare their fingerprints.

        Args:
            step: Number of the checkpoint.
            templates: The trees by name, of jax.ShapeDtypeStruct with shardings where wanted.

        Returns:
            The trees by name, and the metadata.

        Raises:
            DamagedCheckpoint: A file is missing or unreadable, or an array is not what was saved.
        """
        damaged = None
        try:
            items, meta = self._read(step, templates)
        except DamagedCheckpoint as error:
            damaged = error
        if not all_agree(damaged is None):
            raise damaged or self._damaged(step, "another process cannot read it")
        for name, tree in items.items():
            found, saved = fingerprints(tree), meta["fingerprints"][name]
            wrong = [path for path in found if saved[path] != found[path]]
            if wrong:
                raise self._damaged(
                    step,
                    f"{name} {', '.join(wrong[:3])} differs from the fingerprint taken when it "
                    "was saved",
                )
        return items, meta

    def _read(self, step, templates):
        """Read trees and metadata without comparing them; no process waits for another here."""
        meta = self.metadata(step)
        for name, tree in templates.items():
            saved, wanted = set(meta["fingerprints"].get(name, {})), set(leaf_paths(tree))
            if saved != wanted:
                raise self._damaged(
                    step,
                    f"its {name} are not those of this configuration; they "
                    f"lack {sorted(wanted - saved)[:3]} and have {sorted(saved - wanted)[:3]}",
                )
        trees = name_trees(templates, meta["format"])
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        try:
            restored = self._reader.restore(step, args=ocp.args.Composite(**arguments))
        except Exception as error:
            raise self._damaged(step, error) from None
        return rename_trees({name: restored[name] for name in trees}, meta["format"]), meta

    def _damaged(self, step, error: Exception | str) -> DamagedCheckpoint:
        """Make a DamagedCheckpoint of what went wrong.

        Orbax raises many kinds of exception for damaged files, with pages of internals.
        """
        if isinstance(error, MemoryError):
            raise error
        return DamagedCheckpoint(f"checkpoint {step_folder(self._folder, step)}: {_reason(error)}")

    def quarantine_after(self, step: int) -> None:
        """Move checkpoints newer than `step` into damaged/, where they do not block new saves.

        Nothing is deleted: what cannot be read today may be readable tomorrow.
        """
        for newer in [s for s in self.steps() if s > step]:
            if is_first():
                self._quarantine(newer)
            self._retention.forget(newer)
        barrier("damaged checkpoints are moved")
        self._manager.reload()

    def _quarantine(self, step):
        aside = self._folder.with_name(DAMAGED)
        _remove(step_folder(aside, step))
        aside.mkdir(exist_ok=True)
        step_folder(self._folder, step).rename(step_folder(aside, step))

    def clear(self) -> None:
        """Delete all checkpoints."""
        for step in self.steps():
            self._manager.delete(step)

    def wait(self) -> None:
        """Wait until every save that was started is finished."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._writing():
            self._manager.close()
        if not self._read_only and is_first():
            self._remove_leftovers()

    def reached_preemption(self, step: int) -> bool:
        """Whether all processes shall stop after this step, because one of them got SIGTERM."""
        return self._manager.reached_preemption(step)

    @contextlib.contextmanager
    def _writing(self):
        """Turn the first error of writing into UnsavedCheckpoint; suppress those that follow."""
        if self._failed:
            with contextlib.suppress(Exception):
                yield
            return
        try:
            yield
        except Exception as error:
            self._failed = True
            steps = ", ".join(map(str, self.steps())) or "none"
            raise UnsavedCheckpoint(
                f"a checkpoint cannot be written to {self._folder}: {_reason(error)}; the "
                f"checkpoints there are {steps}: fix the cause, and the same command resumes"
            ) from None


def _remove(folder) -> None:
    """Remove a folder and everything in it, as far as that is possible."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            folder.rmtree(missing_ok=True)


def _reason(error: Exception | str) -> str:
    """Return the first line of what orbax says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
    if "RESOURCE_EXHAUSTED" in first or "No space left" in first:
        return "no space left on the device"
    return first or type(error).__name__


@functools.cache
def _ignore_late_results():
    """Silence the results that arrive after one array could not be read or written.

    Python reports each as an unraisable exception or a coroutine never awaited, from threads that
    may be ahead of the one that matters, which is raised.
    """
    warnings.filterwarnings("ignore", message="coroutine 'Store", category=RuntimeWarning)
    report = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def _quiet():
    """Suppress orbax's warning that a read-only manager only reads."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
