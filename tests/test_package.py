"""A wheel and an sdist, each installed into an empty environment, where the program translates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_job import write_text

ROOT = Path(__file__).parents[1]
TRAIN = (
    "--preset tiny --vocab-size 100 --vocabulary whitespace --d-model 16 --d-ff 32 --num-heads 2 "
    "--num-layers 1 --steps 4 --evaluate-every 4 --checkpoint-every 4 --run-dir run"
)


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Folder with a wheel and an sdist, made of a copy: building writes into the tree."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info"))
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", tree)
    return folder / "dist"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_package_translates_in_an_empty_environment(packages, pattern, tmp_path):
    [package] = packages.glob(pattern)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    bin = tmp_path / "venv" / "bin"
    run(bin / "python", "-m", "pip", "install", "--quiet", "--no-compile", package)
    train, validation = write_text(tmp_path / "train"), write_text(tmp_path / "validation", 40, 1)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "XLA_FLAGS", "PYTHONDONTWRITEBYTECODE")
    }
    options = {"cwd": tmp_path, "env": environment}
    program = bin / "transformer-jax"
    run(program, "train", "--train", *train, "--validation", *validation, *TRAIN.split(), **options)
    lines = run(program, "translate", "--run-dir", "run", input="w1 w2\n\nw3\n", **options)
    assert len(lines.splitlines()) == 3 and lines.splitlines()[1] == ""
    # What is data of the package came along: the lexicon, the page, the types.
    asset = "import transformer_jax as t; print(t.__file__); from importlib import resources as r; "
    asset += "print(*(p.is_file() for p in (r.files(t) / 'py.typed', r.files(t) / "
    asset += "'visualization/page.html', r.files(t) / 'data/grammar/lexicon.tsv')))"
    where, found = run(bin / "python", "-c", asset, **options).splitlines()
    assert where.startswith(str(tmp_path)) and found == "True True True"
