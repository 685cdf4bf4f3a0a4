"""Ours beside others on the same work: interleaved rounds, medians, and an entry of results."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.ledger import Entry, Provenance, Table, entries, markdown, publish
from transformer_jax.files import write_atomically

__all__ = [
    "OURS",
    "OURS_NARROW",
    "RESULTS",
    "THREADS",
    "Times",
    "compare",
    "find_torch",
    "make_parser",
    "publish_comparison",
    "times_table",
]

OURS = "transformer_jax"
OURS_NARROW = f"{OURS}, bfloat16"
THREADS = 2
RESULTS = Path(__file__).parent / "results"
# Seconds of rest before a side is timed: OpenMP's threads go on spinning for 0.2 s after a call.
REST = 0.3


@dataclass(frozen=True)
class Times:
    """Seconds of one side: the first call, where it is apart, and those of the rounds."""

    first: float | None
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """From the fastest round to the slowest, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / self.median


def make_parser(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """Make the parser of a comparison, described by its module's first line.

    Args:
        description: The module's docstring.
        rounds: By default.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--results-dir", type=Path, default=RESULTS)
    return parser


def find_torch() -> str | None:
    """Return torch's name with its version, set to THREADS; None, with a note, without it."""
    if find_spec("torch") is None:
        print("torch is not installed: ours alone is measured", file=sys.stderr)
        return None
    import torch

    torch.set_num_threads(THREADS)
    return f"torch {version('torch')}"


def compare(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    check: Callable[[dict[str, Any]], None] = lambda outputs: None,
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Time every side on its work, the first call apart, the others interleaved.

    Args:
        sides: Name -> its work.
        rounds: Calls after the first.
        check: Raises UserError unless what the first calls returned is the same work.

    Returns:
        Times of each side, and what its first call returned.
    """
    first, outputs = {}, {}
    for name, work in sides.items():
        start = time.perf_counter()
        outputs[name] = work()
        first[name] = time.perf_counter() - start
    check(outputs)
    later: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            time.sleep(REST)
            start = time.perf_counter()
            work()
            later[name].append(time.perf_counter() - start)
    return {name: Times(first[name], later[name]) for name in sides}, outputs


def times_table(
    title: str, times: Mapping[str, Times], further: Mapping[str, Mapping[str, Any]] | None = None
) -> Table:
    """A row for each side; "ours x" above 1 says how many times as fast ours is.

    Args:
        title: What was timed.
        times: Times of each side; ours is one.
        further: Column -> side -> cell, shown last.
    """
    further = further or {}
    ours = times[OURS].median
    rows = [
        [
            name, each.median, min(each.rounds), max(each.rounds), each.first, each.median / ours,
            *(column.get(name) for column in further.values()),
        ]
        for name, each in times.items()
    ]  # fmt: skip
    columns = ["", "median, s", "least", "most", "first call", "ours x", *further]
    return Table(title, columns, rows)


def publish_comparison(
    name: str,
    title: str,
    where: Provenance,
    tables: list[Table],
    missing: str,
    times: Mapping[str, Times],
    folder: Path,
) -> None:
    """Record a comparison, and write benchmarks/RESULTS.md where it is one of its own.

    Args:
        name: Name of the file.
        title: Its heading.
        where: What ran, and on what.
        tables: What was found.
        missing: What the comparison lacks.
        times: Every time that was taken.
        folder: Folder of the JSON files.
    """
    details = {side: asdict(each) for side, each in times.items()}
    publish(name, Entry(name, title, where, tables, missing, details), folder)
    text = markdown(entries(folder)).replace(
        "# Results\n\nMade by `python -m experiments.ledger`",
        "# Speed\n\nMade by the programs of benchmarks/",
    )
    if folder == RESULTS:
        write_atomically(folder.parent / "RESULTS.md", text)
