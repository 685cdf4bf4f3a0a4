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
kernels   training steps of base with each of `ModelConfig.kernels`; only when it is named
multi30k  experiments.multi30k at full length, seed by seed; only when it is named

`benchmarks.account` makes an entry of the ledger of them.
"""

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from experiments.ledger import Provenance, write_json
from transformer_jax.config.model import Kernels
from transformer_jax.terminal import command_errors, run_program

__all__ = ["PHASES", "Report", "main"]

ROOT = Path(__file__).parents[1]
# Seconds below which a phase is not begun.
LEAST = 20
# Seconds that a phase may take beyond its deadline to say what it was at.
PATIENCE = 5
# Tests that mean something on an accelerator are marked gpu; these folders hold them.
TESTED = (
    *("tests/functional", "tests/models", "tests/decoding", "tests/training/test_step.py"),
    "tests/run/test_checkpoints.py",
)


@dataclass
class Report:
    """What a phase has found so far; every change is on the disk."""

    path: Path
    deadline: float
    """Of time.monotonic(), which all processes of a machine share."""
    tiny: bool
    data: Path | None = None

    def __post_init__(self):
        self.found: dict[str, Any] = {"ended": False}

    def add(self, found: dict[str, Any]) -> None:
        self.found |= found
        write_json(self.path, self.found)

    @property
    def seconds(self) -> float:
        """Left for this phase."""
        return self.deadline - time.monotonic()


def check(report: Report) -> None:
    from benchmarks.golden import compare

    failed = []
    for dtype in ("float32", "bfloat16"):
        compared = list(compare(dtype))
        failed += [f"{dtype} {each.name}" for each in compared if not each.holds]
        # What does not hold comes first, a distance that is no number with it.
        worst = sorted(compared, key=lambda each: (each.holds, -each.distance))[:5]
        # JSON has no infinity.
        farthest = {e.name: e.distance if math.isfinite(e.distance) else None for e in worst}
        report.add({dtype: {"compared": len(compared), "farthest": farthest}})
    report.add({"failed": failed})
    if report.found["backend"] == "cpu":
        report.add({"tests": "not run: on a CPU `make test` has them all"})
        return
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"),
        # The markers of pytest-xdist are unknown where it is not installed.
        *("--override-ini", "addopts=", "-W", "ignore::pytest.PytestUnknownMarkWarning", *TESTED),
        # Most of their time goes to compiling: 200 s on an H200 in one process.
        *(("-n", str(min(8, os.cpu_count() or 1))) if find_spec("xdist") else ()),
    ]
    # Tests ask for a CPU unless they are told otherwise.
    environment = {**os.environ, "JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=max(report.seconds, 1),
        )  # fmt: skip
        last = done.stdout.strip().splitlines()[-12:]
        report.add({"tests": last, "tests_code": done.returncode})
        failed += ["pytest -m gpu"] if done.returncode else []
    except subprocess.TimeoutExpired as late:
        report.add({"tests": f"no time: {(late.stdout or b'')[-400:]!r}"})
    report.add({"failed": failed})


def resume(report: Report) -> None:
    from benchmarks.determinism import FLAGS, repeated

    if find_spec("tyro") is None:
        report.add({"skipped": "tyro is not installed: jobs are started from the command line"})
        return
    for name, flags in FLAGS.items():
        left = report.seconds >= LEAST
        folder = report.path.parent / f"resume-{name}"
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run's
        found = repeated(folder, flags, report.tiny) if left else {"skipped": "no time was left"}
        report.add({name: found})


def train(report: Report) -> None:
    from benchmarks import speed

    peak = speed.matmul_peak(report.tiny)
    report.add({"peak": peak})
    peers = {"torch": "torch", "torch compiled": "torch"}
    for size, who, found in measurements(report, "training", ("base", "big"), peers):
        report.add({f"{size}, {who}": _with_share(found, peak)})


def decode(report: Report) -> None:
    peers = {"transformers": "transformers"}
    for size, who, found in measurements(report, "decoding", ("32", "256"), peers):
        report.add({f"{size} sentences, {who}": found})
    # As many as newstest2014 has; Hugging Face's generate would pad all of them to the longest.
    newstest = "40" if report.tiny else "2737"
    for size, who, found in measurements(report, "decoding", (newstest,), {}):
        report.add({f"{size} sentences, {who}": found})


def kernels(report: Report) -> None:
    from benchmarks import speed

    peak = speed.matmul_peak(report.tiny)
    report.add({"peak": peak})
    names = [name for name in get_args(Kernels) if name != "auto"]
    if report.found["backend"] == "cpu":
        names.remove("cudnn")
    for length, name in itertools.product((32, 1024), names):
        found = measured(report, "training", "base", name, "--length", str(length))
        report.add({f"base, {length} tokens, {name}": _with_share(found, peak)})


def _with_share(found: dict[str, Any], peak: float) -> dict[str, Any]:
    """What was measured of a training step, with its share of the peak."""
    if "flops" in found:
        found["share_of_peak"] = found["flops"] / found["seconds_per_step"] / peak
    return found


def multi30k(report: Report) -> None:
    from benchmarks.anchor import seeds

    for seed, found in seeds(report.path.parent, report.data, report.tiny, lambda: report.seconds):
        report.add({f"seed {seed}": found})


PHASES: dict[str, Callable[[Report], None]] = {
    "check": check,
    "resume": resume,
    "train": train,
    "decode": decode,
    "kernels": kernels,
    "multi30k": multi30k,
}


def machine(tiny: bool) -> dict[str, Any]:
    """Device, versions and commit, for every phase's file."""
    import jax

    where = Provenance.here("python -m benchmarks.accelerator" + (" --tiny" if tiny else ""))
    return {"backend": jax.default_backend(), **asdict(where)}


def measurements(
    report: Report, work: str, sizes: Sequence[str], peers: dict[str, str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(size, who, what was measured) of ours and of each peer whose package is installed."""
    installed = [who for who, package in peers.items() if find_spec(package)]
    for size in sizes:
        for who in ("ours", *installed):
            yield size, who, measured(report, work, size, who)


def measured(report: Report, *words: str) -> dict[str, Any]:
    """What `benchmarks.speed` prints of one measurement, in a process of its own."""
    if report.seconds < LEAST:
        return {"skipped": "no time was left"}
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
        return {"failed": " ".join(done.stderr.strip().splitlines()[-3:])}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_phase(name: str, output: Path, deadline: float, tiny: bool, data: Path | None) -> None:
    """A phase in this process."""
    report = Report(output / f"{name}.json", deadline, tiny, data)
    start = time.monotonic()
    report.add(machine(tiny))
    PHASES[name](report)
    report.add({"ended": True, "seconds": round(time.monotonic() - start, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    standard = [name for name in PHASES if name not in ("kernels", "multi30k")]
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=standard)
    parser.add_argument("--minutes", type=_minutes, default=8, help="for all phases together")
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--data", type=Path, help="folder of Multi30k, for phase multi30k")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it on a CPU")
    arguments = parser.parse_args()
    if "multi30k" in arguments.phases and not (arguments.data and arguments.data.is_dir()):
        parser.error(f"--data {arguments.data} is no folder: phase multi30k needs the text")
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    # Processes that share a device take its memory as they need it, and compile once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(output / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    end = time.monotonic() + arguments.minutes * 60
    bad = []
    for name in arguments.phases:
        path = output / f"{name}.json"
        if end - time.monotonic() < LEAST:
            write_json(path, {"ended": False, "skipped": "no time was left"})
        else:
            write_json(path, {"ended": False})  # not what an earlier run has found
            _in_its_own_process(name, output, end, arguments.tiny, arguments.data)
        text = path.read_text(encoding="utf-8")
        print(f"{name}: {text}")
        found = json.loads(text)
        bad += [name] if found.get("failed") or not (found["ended"] or "skipped" in found) else []
    if bad:
        sys.exit(f"failed or without an end: {', '.join(bad)}")


def _minutes(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def _in_its_own_process(name: str, output: Path, deadline: float, *options: Any) -> None:
    words = (name, output, deadline, *options)
    process = multiprocessing.get_context("spawn").Process(target=_leading, args=words)
    process.start()
    # It heeds the deadline itself where it can, and says what it was at.
    process.join(max(deadline + PATIENCE - time.monotonic(), 0))
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):  # it may lead no group yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        print(f"{name} ran out of time", file=sys.stderr)
    elif process.exitcode:
        print(f"{name} ended with exit code {process.exitcode}", file=sys.stderr)


def _leading(*words: Any) -> None:
    """A phase as the leader of a group, which ends with all that it has started."""
    os.setsid()
    with command_errors():
        run_phase(*words)


if __name__ == "__main__":
    run_program(main)
