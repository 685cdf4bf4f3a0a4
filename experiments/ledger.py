"""The ledger: what each experiment found, beside the paper, as results/*.json and RESULTS.md.

    python -m experiments.ledger        writes RESULTS.md from results/*.json

An entry holds its tables as the experiment made them, so RESULTS.md has no number of its own.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.files import write_atomically
from transformer_jax.terminal import run_program

__all__ = [
    "Entry",
    "Provenance",
    "Table",
    "entries",
    "markdown",
    "merge_provenance",
    "publish",
    "write_entry",
    "write_json",
]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Numbers to show; a float is shown with `digits` after the point, None as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 2

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} cells for {len(self.columns)} columns")

    def markdown(self) -> str:
        """As Markdown.

        >>> print(Table("", ["row", "PPL"], [["base", 4.923], ["big", None]]).markdown())
        | row | PPL |
        |---|---|
        | base | 4.92 |
        | big | - |
        """
        lines = [_row(self.columns), "|---" * len(self.columns) + "|"]
        lines += [_row([_shown(cell, self.digits) for cell in row]) for row in self.rows]
        return "\n".join([f"**{self.title}**\n", *lines] if self.title else lines)


@dataclass(frozen=True)
class Provenance:
    """What ran, and on what."""

    command: str
    commit: str
    machine: str
    versions: dict[str, str]
    seconds: float | None = None

    @classmethod
    def here(cls, command: str, commit: str = "") -> "Provenance":
        """This machine, these packages, and the checkout's commit unless another is named.

        Asked for when the work begins: when it ends the checkout may be another.
        """
        import jax

        device = jax.devices()[0].device_kind
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {jax.device_count()} x {device}"
        versions = {n: version(n) for n in ("jax", "flax", "optax", "numpy", "sacrebleu")}
        return cls(command, commit or git_commit(), machine, versions)

    def with_duration(self, seconds: float) -> "Provenance":
        return replace(self, seconds=round(seconds, 1))


def merge_provenance(command: str, several: Sequence[Provenance]) -> Provenance:
    """Of parts of one result; what differs between them stands side by side, seconds add up.

    >>> parts = [Provenance("x", "aaa", "CPU", {"jax": "0.10.2"}, 1.0) for _ in range(2)]
    >>> merge_provenance("x", [*parts, Provenance("x", "bbb", "GPU", {"jax": "0.10.2"}, 2.0)])
    Provenance(command='x', commit='aaa and bbb', machine='CPU and GPU', versions={'jax': '0.10.2'}, seconds=4.0)
    """  # noqa: E501

    def each(values: Iterable[str]) -> str:
        return " and ".join(dict.fromkeys(values))

    versions = {name: each(w.versions[name] for w in several) for name in several[0].versions}
    seconds = sum(w.seconds or 0.0 for w in several)
    commits, machines = ([getattr(w, name) for w in several] for name in ("commit", "machine"))
    return Provenance(command, each(commits), each(machines), versions).with_duration(seconds)


@dataclass(frozen=True)
class Entry:
    """One experiment's result. `missing` says what a comparison with the paper still lacks."""

    experiment: str
    title: str
    where: Provenance
    tables: Sequence[Table]
    missing: str
    details: dict[str, Any] = field(default_factory=dict)


def git_commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        completed = subprocess.run(describe, cwd=FOLDER, capture_output=True, text=True)
    except OSError:  # no git here
        return "unknown"
    return completed.stdout.strip() or "unknown"


def write_entry(name: str, entry: Entry, folder: Path = RESULTS) -> Path:
    """Write an entry to folder/NAME.json, over an older one of this name."""
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(entry))
    return path


def publish(name: str, entry: Entry, folder: Path) -> None:
    """Print an entry's tables, record it, and print where."""
    for table in entry.tables:
        print(f"\n{table.markdown()}")
    print(write_entry(name, entry, folder))


def write_json(path: Path, tree: Any) -> None:
    """All of it or nothing; ValueError for what JSON has no number for."""
    text = json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def entries(folder: Path = RESULTS) -> dict[str, Entry]:
    """Name -> entry, of every file of a folder; UserError for one that is no entry."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            tree["where"] = Provenance(**tree["where"])
            tree["tables"] = [Table(**table) for table in tree["tables"]]
            found[path.stem] = Entry(**tree)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no entry of the ledger ({type(error).__name__}: {error}): run the "
                "experiment again with --results-dir, or take the file away"
            ) from error
    return found


def markdown(found: dict[str, Entry]) -> str:
    """RESULTS.md of these entries, in the order of their names."""
    parts = ["# Results\n\nMade by `python -m experiments.ledger` from results/*.json."]
    for name, entry in found.items():
        where = entry.where
        versions = ", ".join(f"{package} {number}" for package, number in where.versions.items())
        seconds = "" if where.seconds is None else f"; {where.seconds:,.0f} s"
        parts += [
            f"## {entry.title}",
            f"`{where.command}`\n\n"
            f"Commit {where.commit} on {where.machine}{seconds}; {versions}. "
            f"[{name}.json](results/{name}.json)",
            *(table.markdown() for table in entry.tables),
            f"Missing to compare: {entry.missing}",
        ]
    return "\n\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    safe = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {safe} |"


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.{digits}f}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    path = FOLDER / "RESULTS.md"
    path.write_text(markdown(entries()), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    run_program(main)
