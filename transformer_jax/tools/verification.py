"""Proof that a killed job resumes exactly: the same training twice, once with kills."""

import contextlib
import hashlib
import json
import math
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformer_jax.config import OptimizerConfig, RunConfig, TrainConfig
from transformer_jax.config.train import mesh_sizes
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run
from transformer_jax.run.names import CONFIG, DAMAGED
from transformer_jax.tasks import ParsingTask, task_of

__all__ = [
    "ResumeReport",
    "Topology",
    "TopologyReport",
    "read_fingerprints",
    "run_to_end",
    "verify_moves",
    "verify_resume",
]

# Pairs of the embedded grammar to train on, where no text is given.
DEFAULT_TRAINING_PAIRS = 2000
# Of losses between topologies, which add in another order.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ResumeReport:
    """What the two runs hold at their end.

    Attributes:
        values: Name -> (of the run never killed, of the one that was killed).
        kills: The last update recorded before each kill.
    """

    values: dict[str, tuple[str, str]]
    kills: list[int]

    @property
    def passed(self) -> bool:
        return all(left == right for left, right in self.values.values())

    def __str__(self) -> str:
        after = f"killed after updates {', '.join(map(str, self.kills))}"
        rows = [("", "never killed", after, "")]
        for name, (left, right) in self.values.items():
            rows.append((name, left, right, "equal" if left == right else "DIFFERENT"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths)).rstrip() for row in rows]
        verdict = (
            "killed jobs resume exactly" if self.passed else "killed jobs DO NOT resume exactly"
        )
        return "\n".join([*lines, verdict])


@dataclass(frozen=True)
class TopologyReport:
    """How a run that moved between topologies compares with one that did not move.

    Attributes:
        topologies: Those that it was trained on, in order.
        order: Digest of all sentences read, by the run that stayed and by the one that moved.
        differences: Update -> difference of its loss, relative to that of the run that stayed.
    """

    topologies: list[str]
    order: tuple[str, str]
    differences: dict[int, float]

    @property
    def passed(self) -> bool:
        return self.order[0] == self.order[1] and not self._beyond

    @property
    def _beyond(self) -> list[int]:
        return [step for step, each in self.differences.items() if not each <= TOLERANCE]

    def __str__(self) -> str:
        same = "the same sentences" if self.order[0] == self.order[1] else "OTHER SENTENCES"
        # A fault of a topology shows at once; a learning rate that is too high for the model
        # makes much of the last bit, little by little.
        first = f", beyond it from update {self._beyond[0]} on" if self._beyond else ""
        return (
            f"moved over {' -> '.join(self.topologies)}: {same}, every checkpoint restored with "
            f"its fingerprints, losses within {max(self.differences.values()):.1e} "
            f"(allowed: {TOLERANCE:.0e}{first})"
        )


def verify_resume(
    config: RunConfig, folder: Path, updates: int, kills: int, change_optimizer: bool = False
) -> ResumeReport:
    """Train `config` in folder/whole, and with SIGKILLs in folder/killed, and compare the two.

    Jobs are processes of their own, as a user starts them.

    Args:
        config: What to train; without text of its own, sentences of the embedded grammar.
        folder: A new folder for both runs.
        updates: Updates of each run.
        kills: SIGKILLs, after random updates.
        change_optimizer: Whether the learning rate of both is halved in their middle.
    """
    if not 0 < kills < updates:
        raise UserError(f"kills {kills} must be positive and fewer than updates {updates}")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder, the runs are written there")
    folder.mkdir(parents=True, exist_ok=True)
    if not config.data.names_text and config.data.corpus is None:
        text: dict[str, Any] = {"dataset": "grammar/10k"}  # its phrases
        if not isinstance(task_of(config.data), ParsingTask):
            text = {"train": _grammar(folder), "vocabulary": "whitespace"}
        config = replace(config, data=replace(config.data, **text))
    every = max(updates // 4, 1)
    config = replace(
        config,
        train=TrainConfig(
            steps=updates,
            seed=config.train.seed,
            parallel=config.train.parallel,
            mesh=config.train.mesh,
            log_every=1,
            evaluate_every=every,
            checkpoint_every=every,
            average_last=2,
        ),
    )
    stretches = [config]
    if change_optimizer:
        middle = updates // 2 // every * every
        first = replace(config, train=replace(config.train, steps=middle))
        stretches = [first, replace(config, optimizer=_at_half_the_rate(config.optimizer))]
    _train_stretches(folder, "whole", stretches, [])
    chance = random.Random(config.train.seed)
    # Somewhere in each kill's part of the updates, in the middle between two saves.
    wanted = [
        int(updates / kills * (number + chance.uniform(0, 0.8))) // every * every + every // 2
        for number in range(kills)
    ]
    last = _train_stretches(folder, "killed", stretches, wanted)
    sides = [read_fingerprints(folder / name) for name in ("whole", "killed")]
    return ResumeReport({name: (sides[0][name], sides[1][name]) for name in sides[0]}, last)


def _at_half_the_rate(optimizer: OptimizerConfig) -> OptimizerConfig:
    if (peak := optimizer.peak_learning_rate) is not None:
        return replace(optimizer, peak_learning_rate=peak / 2)
    return replace(optimizer, lr_factor=optimizer.lr_factor / 2)


def _train_stretches(
    folder: Path, name: str, stretches: Sequence[RunConfig], kills: Sequence[int]
) -> list[int]:
    """Train in folder/name what each configuration says, to its end, with SIGKILLs.

    Args:
        folder: Folder of the runs.
        name: Name of this run.
        stretches: Configurations with ever more steps.
        kills: Updates after which to kill it.

    Returns:
        The last update recorded before each kill.
    """
    last: list[int] = []
    start = 0
    for config in stretches:
        options = ["--change-optimizer"] if start else []
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
        while len(last) < len(kills):
            after = max(kills[len(last)], *last, start) + 1
            if after >= config.train.steps and config is not stretches[-1]:
                break
            last.append(_kill(folder, name, after, options))
        run_to_end(folder, name, options=options)
        start = config.train.steps
    return last


def verify_moves(folder: Path, topologies: Sequence["Topology"]) -> TopologyReport:
    """Train what folder/whole was trained on in folder/moved, in a part on each topology."""
    whole = Run.open(folder / "whole")
    for number, part in enumerate(topologies, 1):
        steps = whole.config.train.steps * number // len(topologies)
        train = replace(whole.config.train, steps=steps, parallel="auto", mesh=part.mesh)
        config = replace(whole.config, train=train)
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
        run_to_end(folder, "moved", part)
    if (folder / "moved" / DAMAGED).exists():
        raise UserError(f"{folder / 'moved'}: a checkpoint was not what had been saved")
    order = [read_fingerprints(folder / name)["data order"] for name in ("whole", "moved")]
    losses = [_losses(folder / name / "metrics.jsonl") for name in ("whole", "moved")]
    differences = {
        step: abs(losses[1].get(step, math.inf) / loss - 1) for step, loss in losses[0].items()
    }
    return TopologyReport(list(map(str, topologies)), (order[0], order[1]), differences)


@dataclass(frozen=True)
class Topology:
    """Virtual CPU devices, of one process or several, and a mesh of them."""

    processes: int = 1
    devices: int | None = None  # as the machine has them
    mesh: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Topology":
        """8 devices, 2x4 of two processes, 2x4:fsdp=2,tensor=2 on a mesh.

        >>> str(Topology.parse("2x4:fsdp=2"))
        '2x4:fsdp=2'
        """
        found = re.fullmatch(r"(?:([1-9]\d?)x)?([1-9]\d{0,2})(?::(.+))?", text)
        if found is None:
            raise UserError(f"{text!r} is not a topology: write 8, 2x4 or 2x4:fsdp=2,tensor=2")
        mesh_sizes(found[3])
        return cls(int(found[1] or 1), int(found[2]), found[3])

    def __str__(self) -> str:
        processes = f"{self.processes}x" if self.processes > 1 else ""
        return f"{processes}{self.devices}{f':{self.mesh}' if self.mesh else ''}"

    def environment(self) -> dict[str, str]:
        if self.devices is None:
            return {}
        flags = re.sub(r"\S*host_platform_device_count\S*", "", os.environ.get("XLA_FLAGS", ""))
        flags += f" --xla_force_host_platform_device_count={self.devices}"
        return {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}

    def options(self) -> Iterator[list[str]]:
        """Yield the options that each process is started with."""
        if self.processes == 1:
            yield []
            return
        with socket.create_server(("localhost", 0)) as free:
            coordinator = f"localhost:{free.getsockname()[1]}"
        for i in range(self.processes):
            counts = ["--num-processes", str(self.processes), "--process-id", str(i)]
            yield ["--coordinator", coordinator, *counts]


def _losses(records: Path) -> dict[int, float]:
    found = map(json.loads, records.read_text(encoding="utf-8").splitlines())
    # A loss that is no number is written as null, and is like no other.
    return {r["step"]: math.inf if r["loss"] is None else r["loss"] for r in found if "loss" in r}


def read_fingerprints(folder: Path) -> dict[str, str]:
    """Return name -> fingerprint of everything that a run has made by its last checkpoint."""
    checkpoints = Run.open(folder).checkpoints(read_only=True)
    step = checkpoints.steps()[-1]
    meta = checkpoints.metadata(step)
    prints = {
        name: _short(json.dumps(tree, sort_keys=True))
        for name, tree in meta["fingerprints"].items()
    }
    return {
        "update": str(step),
        "parameters": prints.pop("params"),
        **prints,
        "data order": _short(meta["data_order_digest"]),
        "metrics.jsonl": _short((folder / "metrics.jsonl").read_text(encoding="utf-8")),
    }


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _grammar(folder: Path) -> tuple[str, str]:
    pairs = [(e.english, e.german) for e in examples("train", DEFAULT_TRAINING_PAIRS)]
    paths = [folder / "train.en", folder / "train.de"]
    for path, side in zip(paths, zip(*pairs)):
        path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
    return str(paths[0]), str(paths[1])


@contextlib.contextmanager
def _job(
    folder: Path, name: str, options: Sequence[str] = (), topology: Topology = Topology()
) -> Iterator[subprocess.Popen]:
    """Start a job that trains in folder/name; it is killed when this context ends."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.absolute() / "compiled")}
    with (folder / f"{name}.log").open("ab") as log:
        job = subprocess.Popen(
            [
                *(sys.executable, "-m", "transformer_jax", "train"),
                *("--run-dir", str(folder / name), "--config", str(folder / CONFIG)),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**cache, **os.environ, **topology.environment()},
        )
    try:
        yield job
    finally:
        job.kill()
        job.wait()


def run_to_end(
    folder: Path, name: str, topology: Topology = Topology(), options: Sequence[str] = ()
) -> None:
    """Train folder/config.json in folder/name to its end, in processes of their own.

    Args:
        folder: Folder of the runs.
        name: Name of this run.
        topology: Processes and devices.
        options: Further options of the command.

    Raises:
        UserError: Training failed.
    """
    with contextlib.ExitStack() as stack:
        jobs = [
            stack.enter_context(_job(folder, name, [*options, *more], topology))
            for more in topology.options()
        ]
        codes = [job.wait() for job in jobs]
        if any(codes):
            log = folder / f"{name}.log"
            last = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
            raise UserError(f"training in {folder / name} failed ({log}): {last}")


def _kill(folder: Path, name: str, after: int, options: Sequence[str]) -> int:
    """Start the job, kill it when it has recorded update `after`; return the last recorded."""
    records = folder / name / "metrics.jsonl"
    with _job(folder, name, options) as job:
        while job.poll() is None:
            if (found := _last_step(records)) >= after:
                return found
            time.sleep(0.002)
    run_to_end(folder, name, options=options)  # says what went wrong, if anything did
    raise UserError(f"training ended before it could be killed after {after}: raise --updates")


def _last_step(records: Path) -> int:
    """Return the last recorded step, 0 where nothing is recorded yet."""
    try:
        lines = records.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0
