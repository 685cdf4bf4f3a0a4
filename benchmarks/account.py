"""What `benchmarks.accelerator` left in a folder, as an entry of the ledger.

    python -m benchmarks.account runs/accelerator --results-dir experiments/results

The folder may come from another machine, whose checkout may be a copy that git knows nothing of:
--commit names what ran there.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmarks.accelerator import PHASES
from experiments.ledger import Entry, Provenance, Table, merge_provenance, publish
from experiments.multi30k import ANCHOR
from experiments.program import refuse_old_options
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

__all__ = ["account"]

Found = dict[str, Any]


def account(folder: Path, commit: str = "", note: str = "") -> Entry:
    """An entry of the phases that are there; UserError where there is none.

    Args:
        folder: what --output named.
        commit: of the checkout that ran, instead of what git said there.
        note: what is to be said of the runs beside what their files hold.

    Returns:
        A table for each phase that found something; `missing` names those that did not end.
    """
    paths = {name: folder / f"{name}.json" for name in PHASES}
    found = {n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.is_file()}
    ran = {name: phase for name, phase in found.items() if "machine" in phase}
    if not ran:
        raise UserError(f"{folder} has no result of a phase: name the --output of an earlier run")
    if small := [name for name, phase in ran.items() if "--tiny" in phase["command"]]:
        raise UserError(
            f"{folder}: {', '.join(small)} ran with --tiny, to be tried, and measured nothing: run "
            "them without it"
        )
    names = [each.name for each in fields(Provenance)]
    where = [Provenance(**{name: phase[name] for name in names}) for phase in ran.values()]
    where = [replace(each, commit=commit or each.commit) for each in where]
    at = merge_provenance(where[0].command, where)
    unended = [name for name, phase in found.items() if not phase.get("ended")]
    lacks = [f"phases without an end: {', '.join(unended)}"] if unended else []
    for phase_name, phase in ran.items():
        named = [(phase_name, phase)]
        named += [(name, each) for name, each in phase.items() if isinstance(each, dict)]
        for name, each in named:
            why = each.get("skipped") or each.get("failed")
            lacks += [f"{name}: {why if isinstance(why, str) else ', '.join(why)}"] if why else []
    missing = "; ".join(lacks) or "nothing"
    return Entry(
        "accelerator",
        f"Checked and measured on {at.machine.split(' x ')[-1]}",
        at,
        [table for name, phase in ran.items() if (table := TABLES[name](phase)).rows],
        f"{missing}. {note}" if note else missing,
        found,
    )


def _checked(phase: Found) -> Table:
    from benchmarks.golden import LIMITS

    rows: list[list] = []
    for dtype, limit in LIMITS.items():
        if dtype in phase:
            distances = phase[dtype]["farthest"].values()
            worst = "not finite" if None in distances else f"{max(distances):.1e}"
            rows.append([dtype, phase[dtype]["compared"], worst, f"{limit:.0e}"])
    if "tests_code" in phase:
        rows.append(["pytest -m gpu", None, phase["tests"][-1].strip("= "), "none fails"])
    return Table(
        "Numbers beside a CPU's: distance from the largest of an array",
        ["what", "compared", "farthest", "allowed"],
        rows,
    )


def _resumed(phase: Found) -> Table:
    rows = [
        [
            name,
            " ".join(f"{key}={value}" for key, value in each["environment"].items()) or "none",
            ", ".join(each["whole runs differ in"]) or "nothing",
            ", ".join(each["killed run differs in"]) or "nothing",
        ]
        for name, each in _parts(phase, "whole runs differ in")
    ]
    return Table(
        "Three runs of one job: two whole, one killed",
        ["setting", "environment", "the two whole runs differ in", "the killed one differs in"],
        rows,
    )


def _trained(phase: Found, title: str = "Training") -> Table:
    rows = [
        [
            name,
            round(each["target_tokens_per_second"]),
            each["seconds_per_step"] * 1e3,
            each["share_of_peak"] * 100,
            each["compile_seconds"],
            each["memory"]["peak"] / 1e9 if each["memory"]["peak"] else None,
        ]
        for name, each in _parts(phase, "target_tokens_per_second")
    ]
    return Table(
        f"{title} in bfloat16; share of {phase.get('peak', 0) / 1e12:,.0f} TFLOP/s, "
        "the largest matrix product of the same run",
        ["model", "target tokens/s", "ms a step", "share of the peak, %", "compiling, s", "GB"],
        rows,
        1,
    )


def _by_kernels(phase: Found) -> Table:
    return _trained(phase, "Training by kernels and tokens a side,")


def _decoded(phase: Found) -> Table:
    rows = [
        [
            name,
            round(each["target_tokens_per_second"]),
            each["target_tokens"],
            each["seconds"],
            each["first_call_seconds"],
        ]
        for name, each in _parts(phase, "target_tokens_per_second")
    ]
    return Table(
        "Beam 4, base, random parameters, bfloat16, no length penalty",
        ["what", "target tokens/s", "target tokens", "s", "first call, s"],
        rows,
        3,
    )


def _scored(phase: Found) -> Table:
    rows = [
        [name, score, each["value"], each["signature"]]
        for name, seed in _parts(phase, "scores")
        for score, each in seed["scores"].items()
    ]
    return Table(f"Multi30k (published: {ANCHOR})", ["seed", "score", "ours", "signature"], rows)


def _parts(phase: Found, key: str) -> Iterable[tuple[str, Found]]:
    """Parts of a phase that have this key, by their names."""
    return ((n, part) for n, part in phase.items() if isinstance(part, dict) and key in part)


TABLES = dict(
    zip(PHASES, (_checked, _resumed, _trained, _decoded, _by_kernels, _scored), strict=True)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what --output of benchmarks.accelerator named")
    parser.add_argument("--name", default="accelerator", help="of the entry")
    parser.add_argument("--results-dir", type=Path, required=True, help="folder of entries")
    refuse_old_options(parser)
    parser.add_argument("--commit", default="", help="what ran there, if git did not know")
    parser.add_argument("--note", default="", help="what else is to be said of the runs")
    options = parser.parse_args()
    entry = account(options.folder, options.commit, options.note)
    publish(options.name, entry, options.results_dir)


if __name__ == "__main__":
    run_program(main)
