"""Strict settings for every test, made before jax is imported."""

import importlib.util
import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path

# Eight devices on one CPU, for pmap and meshes. Where programs are not optimised, the older code
# generator compiles them in a third of the time; JAX 0.11 has it no longer.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if "--xla_backend_optimization_level=0" in os.environ.get("XLA_FLAGS", "")
        and version("jaxlib").startswith("0.10.")
        else "",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

# Shapes and dtypes of public signatures are checked in tests, and only there.
from jaxtyping import install_import_hook

# A machine with an accelerator may lack beartype; there `pytest -m gpu` runs without this check.
if importlib.util.find_spec("beartype"):
    with install_import_hook("transformer_jax.functional", "beartype.beartype"):
        import transformer_jax.functional  # noqa: F401

jax.config.update("jax_numpy_rank_promotion", "raise")
# An accelerator would multiply float32 in fewer bits than the references have.
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

hypothesis.settings.register_profile("default", max_examples=25, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

SHARED = Path(os.environ.get("TRANSFORMER_JAX_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora beside the checkout; tests that need them skip where they are absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no corpora at {folder} (set TRANSFORMER_JAX_SHARED)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """Fixtures that several tests share prepare their text here, not in the user's cache."""
    os.environ["TRANSFORMER_JAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def uninterrupted_run(tmp_path_factory, _cache):
    """(folder, configuration, run) of a small job that nothing interrupted."""
    from tests.small_job import configuration
    from transformer_jax.run.train import train

    folder = tmp_path_factory.mktemp("whole")
    config = configuration(folder)
    return folder, config, train(config, folder / "run", progress=False)


@pytest.fixture(autouse=True)
def _strict(tmp_path, monkeypatch, request):
    """An empty working folder; no implicit dtype promotion where no optax is involved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFORMER_JAX_CACHE", str(tmp_path / "cache"))
    ours = request.path.parent.name in ("functional", "models", "decoding")
    with jax.numpy_dtype_promotion("strict" if ours else "standard"):
        yield


@pytest.fixture
def command(capsys):
    """What a command prints."""
    from transformer_jax.cli import main

    def command(*arguments):
        capsys.readouterr()
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return command


def pytest_terminal_summary(terminalreporter):
    """How many kills came at which point (tests/run/test_kills.py)."""
    reports = terminalreporter.stats.get("passed", [])
    kills = Counter(value for r in reports for name, value in r.user_properties if name == "killed")
    for point, count in kills.most_common():
        terminalreporter.write_line(f"killed {point}: {count}")
