"""Break one named line at a time; the tests named beside it must notice.

    make mutants        python -m tests.mutants [NUMBER ...]

`tests.broken_lines` lists them. A line that is no longer there is an error: move the mutant with
the code. The breaking happens in a copy.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.broken_lines import MUTANTS

ROOT = Path(__file__).parents[1]
PACKAGE = "transformer_jax/"


def survives(copy: Path, file: str, line: str, broken: str, tests: str) -> bool:
    path = copy / PACKAGE / file
    source = path.read_text(encoding="utf-8")
    if source.count(line) != 1:
        sys.exit(f"{file}: {line!r} stands there {source.count(line)} times, not once")
    path.write_text(source.replace(line, broken), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", tests]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),  # before the installed one
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        done = subprocess.run(command, cwd=copy, capture_output=True, env=environment)
    finally:
        path.write_text(source, encoding="utf-8")
    told = done.stdout.decode()
    # A test that fails catches a mutant; one that cannot even be imported proves nothing.
    if done.returncode != 0 and "\nFAILED " not in told:
        sys.exit(f"{file}: pytest did not run: {told[-500:]}")
    return done.returncode == 0


def main() -> None:
    chosen = [int(word) for word in sys.argv[1:]] or range(len(MUTANTS))
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("transformer_jax", "experiments", "benchmarks", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, copy / name)
        for number in chosen:
            lives = survives(copy, *MUTANTS[number])
            state = "SURVIVED" if lives else "caught"
            print(f"{number:3} {state}  {': '.join(MUTANTS[number][:2])}", flush=True)
            alive += [number] if lives else []
    if alive:
        sys.exit(f"{len(alive)} of {len(list(chosen))} mutants survived: {alive}")
    print(f"all {len(list(chosen))} mutants caught")


if __name__ == "__main__":
    main()
