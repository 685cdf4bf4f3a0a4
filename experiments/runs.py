"""Runs of experiments: their folders, and what they recorded."""

import json
import statistics
from pathlib import Path
from typing import Any

__all__ = ["named_before", "training_summary"]


def named_before(folder: Path, word: str, old: str) -> Path:
    """`folder`, or the one with `old` for a `word` of its name where older versions have left it.

    >>> named_before(Path("runs/table3/small"), "small", "twin").name
    'small'
    """
    before = folder.with_name(folder.name.replace(word, old))
    return before if before.is_dir() else folder


def training_summary(folder: Path) -> dict[str, Any]:
    """What a run has written down: seconds of all its updates, speed, and its validation curve.

    Medians are None for a run that is shorter than log_every.
    """
    records = {
        name: list(map(json.loads, (folder / f"{name}.jsonl").read_text("utf-8").splitlines()))
        for name in ("timings", "metrics")
    }
    timings = [r for r in records["timings"] if "seconds_per_step" in r]
    steps = [b["step"] - a["step"] for a, b in zip([{"step": 0}, *timings], timings)]

    def middle(name):
        # Records that version 0.1.0 wrote have another name for it.
        found = [r.get(name, r.get("waiting_share")) for r in timings]
        return statistics.median(found) if found else None

    return {
        "training_seconds": round(sum(r["seconds_per_step"] * n for r, n in zip(timings, steps))),
        "median_seconds_per_step": middle("seconds_per_step"),
        "median_target_tokens_per_second": middle("tokens_per_second"),
        "median_input_wait_fraction": middle("input_wait_fraction"),
        "curve": [
            {k: r[k] for k in ("step", "validation_loss", "validation_perplexity")}
            for r in records["metrics"]
            if "validation_loss" in r
        ],
    }
