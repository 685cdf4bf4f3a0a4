"""How long a start takes: imports, the translation of a sentence, the first update of base.

    python -m benchmarks.startup --run-dir runs/demo/run

Each start is a process of its own. "Without the cache" compiles every time; the others share a
cache of compiled programs and prepared text, which is filled before the first round. A job that
trains base, with a vocabulary of 2,000, is killed once it has recorded its first update, of 1,024
tokens.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import OURS, Times, make_parser, publish_comparison
from experiments.ledger import Provenance, Table
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

__all__ = ["main"]

LIBRARIES = "import jax, flax, optax, orbax.checkpoint"
FIRST_UPDATE = "train base to its first update"
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
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        seconds: dict[str, list[float]] = {name: [] for name in [*starts, FIRST_UPDATE]}
        for number in range(arguments.rounds + 1):
            for name, (command, is_cached) in starts.items():
                seconds[name].append(_seconds(command, arguments.line, cache, is_cached))
            run = Path(folder) / f"run-{number}"
            seconds[FIRST_UPDATE].append(_seconds_to_first_update(run, cache))
            shutil.rmtree(run)
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


def _environment(cache: str, is_cached: bool = True) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    enabled = {"JAX_ENABLE_COMPILATION_CACHE": str(is_cached).lower()}
    return {**inherited, "TRANSFORMER_JAX_CACHE": cache, **enabled}


def _seconds(command: list[str], line: str, cache: str, is_cached: bool) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command], input=line, text=True, check=True, capture_output=True,
        env=_environment(cache, is_cached),
    )  # fmt: skip
    return time.perf_counter() - start


def _seconds_to_first_update(run: Path, cache: str) -> float:
    command = [
        *(sys.executable, "-c", PROGRAM, "train", "--preset", "base", "--dataset", "grammar"),
        *("--vocab-size", "2000", "--batch-tokens", "1024", "--log-every", "1", "--steps", "100"),
        *("--run-dir", str(run)),
    ]
    log = run.with_suffix(".log")
    start = time.perf_counter()
    with log.open("w") as output:
        job = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(cache))
    try:
        records = run / "metrics.jsonl"
        while not (records.exists() and '"loss"' in records.read_text(encoding="utf-8")):
            if job.poll() is not None:
                last = " | ".join(log.read_text(encoding="utf-8").strip().splitlines()[-3:])
                raise UserError(f"{FIRST_UPDATE}: it ended with {job.returncode}: {last}")
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        job.kill()
        job.wait()


if __name__ == "__main__":
    run_program(main)
