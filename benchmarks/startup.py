"""How long a start takes: imports, and the translation of one sentence, first and again.

    python -m benchmarks.startup --run-dir runs/demo/run

Each start is a process of its own. "Without the cache" compiles every time; the others share a
cache of compiled programs, which is filled before the first round.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import OURS, Times, make_parser, publish_comparison
from experiments.ledger import Provenance, Table
from transformer_jax.terminal import run_program

__all__ = ["main"]

LIBRARIES = "import jax, flax, optax, orbax.checkpoint"
PROGRAM = "import sys; from transformer_jax.cli import main; main(sys.argv[1:])"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--line", default="The old man sees the children .")
    arguments = parser.parse_args()
    where = Provenance.here(f"python -m benchmarks.startup --run-dir {arguments.run_dir}")
    translate = ["-c", PROGRAM, "translate", "--run-dir", str(arguments.run_dir)]
    starts = {
        "import jax, flax, optax, orbax": (["-c", LIBRARIES], True),
        "import the same and transformer_jax.run.train": (
            ["-c", f"{LIBRARIES}; import transformer_jax.run.train"], True,
        ),
        "translate one sentence": (translate, True),
        "translate one sentence, without the cache": (translate, False),
    }  # fmt: skip
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        seconds: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(arguments.rounds + 1):
            for name, (command, is_cached) in starts.items():
                seconds[name].append(_seconds(command, arguments.line, cache, is_cached))
        times = {name: Times(each[0], each[1:]) for name, each in seconds.items()}
    libraries = times["import jax, flax, optax, orbax"].median
    columns = ["", "median, s", "least", "most", "first start", "beyond the libraries"]
    rows = [
        [name, each.median, min(each.rounds), max(each.rounds), each.first, each.median - libraries]
        for name, each in times.items()
    ]
    publish_comparison(
        "startup",
        f"Start-up of {OURS}",
        where.with_duration(time.perf_counter() - begin),
        [Table("Seconds of a process, interleaved", columns, rows)],
        "nothing",
        times,
        arguments.results_dir,
    )


def _seconds(command: list[str], line: str, cache: str, is_cached: bool) -> float:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    enabled = {"JAX_ENABLE_COMPILATION_CACHE": str(is_cached).lower()}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command], input=line, text=True, check=True, capture_output=True,
        env={**inherited, "TRANSFORMER_JAX_CACHE": cache, **enabled},
    )  # fmt: skip
    return time.perf_counter() - start


if __name__ == "__main__":
    run_program(main)
