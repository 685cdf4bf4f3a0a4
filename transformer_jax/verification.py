"""Proof that a killed job goes on exactly: the same training twice, once with kills."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from transformer_jax.config import RunConfig, TrainConfig
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.errors import UserError
from transformer_jax.run import Run

__all__ = ["Verdict", "verify_resume"]

# Pairs of the embedded grammar to train on, where no text is given.
PAIRS = 2000


@dataclass(frozen=True)
class Verdict:
    """What the two runs hold at their end, name -> (never killed, killed), and the kills."""

    values: dict[str, tuple[str, str]]
    kills: list[int]
    """The last update that was recorded before each kill."""

    @property
    def holds(self) -> bool:
        return all(left == right for left, right in self.values.values())

    def __str__(self) -> str:
        after = f"killed after updates {', '.join(map(str, self.kills))}"
        rows = [("", "never killed", after, "")]
        for name, (left, right) in self.values.items():
            rows.append((name, left, right, "equal" if left == right else "DIFFERENT"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths)).rstrip() for row in rows]
        verdict = "killed jobs go on exactly" if self.holds else "killed jobs DO NOT go on exactly"
        return "\n".join([*lines, verdict])


def verify_resume(config: RunConfig, folder: Path, updates: int, kills: int) -> Verdict:
    """Train `config` for `updates` in folder/whole, and with `kills` SIGKILLs in folder/killed.

    Jobs are processes of their own, as a user starts them.
    """
    if not 0 < kills < updates:
        raise UserError(f"kills {kills} must be positive and fewer than updates {updates}")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder, the runs are written there")
    folder.mkdir(parents=True, exist_ok=True)
    if config.data.train is None and config.data.dataset is None and config.data.corpus is None:
        config = replace(
            config, data=replace(config.data, train=_grammar(folder), vocabulary="whitespace")
        )
    every = max(updates // 4, 1)
    config = replace(
        config,
        train=TrainConfig(
            steps=updates,
            seed=config.train.seed,
            log_every=1,
            evaluate_every=every,
            checkpoint_every=every,
            average_last=2,
        ),
    )
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    _finish(folder, "whole")
    chance = random.Random(config.train.seed)
    last: list[int] = []
    for number in range(kills):
        # Somewhere in this kill's part of the updates, in the middle between two saves.
        wanted = int(updates / kills * (number + chance.uniform(0, 0.8))) // every * every
        last.append(_kill(folder, max(wanted + every // 2, *last, 0) + 1))
    _finish(folder, "killed")
    sides = [values(folder / name) for name in ("whole", "killed")]
    return Verdict({name: (sides[0][name], sides[1][name]) for name in sides[0]}, last)


def values(folder: Path) -> dict[str, str]:
    """Name -> fingerprint of everything that a run has made by its last checkpoint."""
    checkpoints = Run.open(folder).checkpoints(read_only=True)
    step = checkpoints.steps()[-1]
    meta = checkpoints.metadata(step)
    prints = {
        ("optimizer state" if name == "rest" else name): _short(json.dumps(tree, sort_keys=True))
        for name, tree in meta["fingerprints"].items()
    }
    return {
        "update": str(step),
        "parameters": prints.pop("params"),
        **prints,
        "data order": _short(meta["order"]),
        "metrics.jsonl": _short((folder / "metrics.jsonl").read_text(encoding="utf-8")),
    }


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _grammar(folder: Path) -> tuple[str, str]:
    pairs = [(e.english, e.german) for e in examples("train", PAIRS)]
    paths = [folder / "train.en", folder / "train.de"]
    for path, side in zip(paths, zip(*pairs)):
        path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
    return str(paths[0]), str(paths[1])


@contextlib.contextmanager
def _job(folder: Path, name: str) -> Iterator[subprocess.Popen]:
    """A job that trains in folder/name, and ends with its parent's interest in it."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.absolute() / "compiled")}
    with (folder / f"{name}.log").open("ab") as log:
        job = subprocess.Popen(
            [
                *(sys.executable, "-m", "transformer_jax.cli", "train"),
                *("--run-dir", str(folder / name), "--config", str(folder / "config.json")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**cache, **os.environ},
        )
    try:
        yield job
    finally:
        job.kill()
        job.wait()


def _finish(folder: Path, name: str) -> None:
    with _job(folder, name) as job:
        if job.wait():
            log = folder / f"{name}.log"
            last = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
            raise UserError(f"training in {folder / name} failed ({log}): {last}")


def _kill(folder: Path, after: int) -> int:
    """Start the job and kill it when it has recorded update `after`; return the last recorded."""
    records = folder / "killed" / "metrics.jsonl"
    with _job(folder, "killed") as job:
        while job.poll() is None:
            if (found := _last_step(records)) >= after:
                return found
            time.sleep(0.002)
    _finish(folder, "killed")  # says what went wrong, if anything did
    raise UserError(f"training ended before it could be killed after {after}: raise --updates")


def _last_step(records: Path) -> int:
    """0 where nothing is recorded yet."""
    try:
        lines = records.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0
