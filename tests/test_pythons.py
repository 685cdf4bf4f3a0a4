"""The package on the other Pythons and JAXes that it claims, each in its own environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# One line of JAX releases each, so that the ends of the supported range and its middle are run.
CASES = [("3.12", "jax>=0.11,<0.12"), ("3.13", "jax>=0.12,<0.13")]
# A formula, the configuration, and commands from training to scores.
TESTS = [
    "tests/functional/test_attention.py",
    "tests/config/test_config.py",
    "tests/test_cli.py::test_train_translate_evaluate",
]


def interpreter(version):
    """A working python3.x on PATH or of pyenv; None where this machine has none."""
    candidates = [shutil.which(f"python{version}")]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(root.glob(f"{version}.*/bin/python"))]
    for candidate in filter(None, candidates):  # a pyenv shim may stand for nothing
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.startswith(f"Python {version}."):
            return candidate
    return None


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("version", "jax"), CASES)
def test_on_another_python(version, jax, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    own = tmp_path / "venv" / "bin" / "python"
    # A copy of its own: two editable installations at once write the same egg-info folder.
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"))
    # What is imported is compiled then; all that there is would take longer than the tests.
    install = [own, "-m", "pip", "install", "--quiet", "--no-compile", "-e", f"{tree}[test]", jax]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [own, "-m", "pytest", "-q", "-m", "not slow", *TESTS]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
