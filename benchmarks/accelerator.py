"""Checks this package on whatever device JAX finds, then measures it there.

    python -m benchmarks.accelerator --output runs/accelerator
    python -m benchmarks.accelerator --phases check train --minutes 4
    python -m benchmarks.accelerator --phases multi30k --data ../shared/data/multi30k
    python -m benchmarks.accelerator --tiny         small sizes, to try it on a CPU

Each phase is a process of its own that writes OUTPUT/PHASE.json as it finds things; one that ends
badly or runs out of time leaves what it had found, and one for which no time is left is skipped.

check     numbers of this device beside those of a CPU, and `pytest -m gpu`
resume    a job that is killed beside two that are not, with and without deterministic operations
train     target tokens a second, memory and share of the peak, beside torch where it is installed
decode    beam search, beside Hugging Face's generate where transformers is installed
multi30k  experiments.multi30k at full length, seed by seed; only when it is named
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["PHASES", "Report", "main"]

ROOT = Path(__file__).parents[1]
# Seconds below which a phase is not begun.
LEAST = 20
# Tests that mean something on an accelerator are marked gpu; these folders hold them.
TESTED = (
    *("tests/functional", "tests/models", "tests/decoding", "tests/training/test_step.py"),
    "tests/test_checkpoints.py",
)


@dataclass
class Report:
    """What a phase has found so far; every change is on the disk."""

    path: Path
    deadline: float
    """Of time.monotonic()."""
    tiny: bool
    data: Path | None = None

    def __post_init__(self):
        self.found: dict[str, Any] = {"ended": False}

    def add(self, **found: Any) -> None:
        self.found.update(found)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)

    @property
    def seconds(self) -> float:
        """Left for this phase."""
        return self.deadline - time.monotonic()


def check(report: Report) -> None:
    from benchmarks.golden import compare

    report.add(**machine())
    failed = []
    for dtype in ("float32", "bfloat16"):
        compared = list(compare(dtype))
        failed += [f"{dtype} {each.name}" for each in compared if not each.holds]
        worst = sorted(compared, key=lambda each: each.distance, reverse=True)[:5]
        report.add(
            **{
                dtype: {
                    "compared": len(compared),
                    "farthest": {each.name: each.distance for each in worst},
                }
            }
        )
    report.add(failed=failed)
    if report.found["backend"] == "cpu":
        report.add(tests="not run: on a CPU `make test` has them all")
        return
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"),
        # The markers of pytest-xdist are unknown where it is not installed.
        *("--override-ini", "addopts=", "-W", "ignore::pytest.PytestUnknownMarkWarning", *TESTED),
    ]
    # Tests ask for a CPU unless they are told otherwise.
    environment = {**os.environ, "JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=max(report.seconds, 1),
        )  # fmt: skip
        report.add(tests=done.stdout.strip().splitlines()[-12:], tests_code=done.returncode)
        failed += ["pytest -m gpu"] if done.returncode else []
    except subprocess.TimeoutExpired as late:
        report.add(tests=f"no time: {(late.stdout or b'')[-400:]!r}")
    report.add(failed=failed)


def resume(report: Report) -> None:
    from benchmarks.determinism import FLAGS, repeated

    report.add(**machine())
    if find_spec("tyro") is None:
        report.add(skipped="tyro is not installed: jobs are started from the command line")
        return
    for name, flags in FLAGS.items():
        if report.seconds < LEAST:
            break
        report.add(**{name: repeated(report.path.parent / f"resume-{name}", flags, report.tiny)})


def train(report: Report) -> None:
    from benchmarks import speed

    report.add(**machine(), peak=speed.matmul_peak(report.tiny))
    for name in ("base", "big"):
        for who in ("ours", "torch", "torch compiled"):
            if who != "ours" and find_spec("torch") is None:
                continue
            if report.seconds < LEAST:
                return
            found = measured(report, "training", name, who)
            if "flops" in found:
                share = found["flops"] / found["seconds_per_step"] / report.found["peak"]
                found["share_of_peak"] = share
            report.add(**{f"{name}, {who}": found})


def decode(report: Report) -> None:
    report.add(**machine())
    for sentences in (32, 256):
        for who in ("ours", "transformers"):
            if who != "ours" and find_spec("transformers") is None:
                continue
            if report.seconds < LEAST:
                return
            found = measured(report, "decoding", str(sentences), who)
            report.add(**{f"{sentences} sentences, {who}": found})


def multi30k(report: Report) -> None:
    from benchmarks.anchor import seeds

    report.add(**machine())
    for seed, found in seeds(report.path.parent, report.data, report.tiny, lambda: report.seconds):
        report.add(**{f"seed {seed}": found})


PHASES: dict[str, Callable[[Report], None]] = {
    "check": check,
    "resume": resume,
    "train": train,
    "decode": decode,
    "multi30k": multi30k,
}


def machine() -> dict[str, Any]:
    """Device and versions, for every phase's file."""
    import platform
    from importlib.metadata import version

    import jax

    from experiments.ledger import head

    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        "commit": head(),
    }


def measured(report: Report, *words: str) -> dict[str, Any]:
    """What `benchmarks.speed` prints of one measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed", *words]
    command += ["--tiny"] if report.tiny else []
    if words == ("training", "base", "ours") and not report.tiny:
        command += ["--profile", str(report.path.parent / "profile")]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=max(report.seconds, 1)
        )
    except subprocess.TimeoutExpired:
        return {"failed": "no time was left"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-3:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_phase(name: str, output: Path, seconds: float, tiny: bool, data: Path | None) -> None:
    """A phase in this process."""
    report = Report(output / f"{name}.json", time.monotonic() + seconds, tiny, data)
    start = time.monotonic()
    PHASES[name](report)
    report.add(ended=True, seconds=round(time.monotonic() - start, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    standard = [name for name in PHASES if name != "multi30k"]
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=standard)
    parser.add_argument("--minutes", type=float, default=8, help="for all phases together")
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--data", type=Path, help="folder of Multi30k, for phase multi30k")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it on a CPU")
    parser.add_argument("--here", action="store_true", help="the first phase in this process")
    arguments = parser.parse_args()
    if "multi30k" in arguments.phases and not (arguments.data and arguments.data.is_dir()):
        parser.error(f"--data {arguments.data} is no folder: phase multi30k needs the text")
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    # Processes that share a device take its memory as they need it, and compile once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(output / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    if arguments.here:
        seconds = arguments.minutes * 60
        run_phase(arguments.phases[0], output, seconds, arguments.tiny, arguments.data)
        return
    end = time.monotonic() + arguments.minutes * 60
    for name in arguments.phases:
        left = end - time.monotonic()
        path = output / f"{name}.json"
        if left < LEAST:
            path.write_text('{"ended": false, "skipped": "no time was left"}\n', encoding="utf-8")
        else:
            _in_its_own_process(name, left, arguments)
        print(f"{name}: {path.read_text(encoding='utf-8') if path.exists() else 'nothing'}")


def _in_its_own_process(name: str, seconds: float, arguments) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks.accelerator", "--here", "--phases", name),
        *("--minutes", str(seconds / 60), "--output", str(arguments.output)),
        *(["--tiny"] if arguments.tiny else []),
        *(["--data", str(arguments.data)] if arguments.data else []),
    ]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        if code := process.wait(seconds):
            print(f"{name} ended with exit code {code}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"{name} ran out of time", file=sys.stderr)


if __name__ == "__main__":
    main()
