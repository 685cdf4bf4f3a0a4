"""The house rules that a machine can hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "transformer_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))


def test_imports_run_one_way():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*SOURCES, *EXPERIMENTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.name != "utils.py"


def test_orbax_has_one_home():
    # Whatever form an import takes: `import orbax.x`, `from orbax import x`, inside a function.
    line = re.compile(r"^\s*(import|from)\s+orbax\b", re.MULTILINE)
    assert all(
        map(line.search, ("    from orbax import checkpoint", "import orbax.checkpoint as ocp"))
    )
    users = [p.name for p in SOURCES if line.search(p.read_text())]
    assert users == ["checkpoints.py"]


def test_public_names_resolve():
    import transformer_jax

    for name in transformer_jax.__all__:
        assert getattr(transformer_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        transformer_jax.Nothing  # noqa: B018


def test_import_of_the_package_is_light():
    code = "import sys, transformer_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
