"""Compiled programs are kept, and change nothing but time."""

import logging
import os
import subprocess
import sys

import jax
import pytest

from tests.small_job import ENVIRONMENT, read_jsonl
from transformer_jax.devices import compilation
from transformer_jax.devices.compilation import use_compilation_cache

SMALL = [
    "--preset", "tiny", "--vocabulary", "whitespace", "--d-model", "16", "--num-heads", "2",
    "--steps", "6", "--log-every", "1", "--batch-tokens", "64", "--max-length", "8",
]  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Before jax is imported, without settings of its cache; what a test sets is taken back."""
    monkeypatch.delitem(sys.modules, "jax")
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return os.environ


def test_cache_is_the_users_own(environment, tmp_path):
    use_compilation_cache(tmp_path / "cache" / "compiled")
    [folder] = (tmp_path / "cache" / "compiled").iterdir()
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}


def test_settings_of_the_user_are_kept(environment, tmp_path):
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "5"
    use_compilation_cache(tmp_path / "compiled")
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "5"
    environment["JAX_COMPILATION_CACHE_DIR"] = "mine"
    use_compilation_cache(tmp_path / "other")
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("reason", ["false", "OFF", "imported"])
def test_cache_that_is_off_makes_no_folder(environment, tmp_path, monkeypatch, reason):
    if reason != "imported":
        monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", reason)
    else:
        monkeypatch.setitem(sys.modules, "jax", jax)
    use_compilation_cache(tmp_path / "compiled")
    assert not (tmp_path / "compiled").exists()
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


@pytest.mark.parametrize("reason", ["a file", "open to others"])
def test_cache_that_may_not_be_used_is_off(environment, tmp_path, caplog, reason):
    if reason == "a file":
        (tmp_path / "compiled").touch()
    else:
        (tmp_path / "compiled").mkdir()
        (tmp_path / "compiled").chmod(0o777)
    with caplog.at_level(logging.INFO):
        use_compilation_cache(tmp_path / "compiled")
    assert f"compiled programs are not kept: {'' if reason == 'a file' else 'other users'}" in (
        caplog.text
    )
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_oldest_programs_are_removed(environment, tmp_path, monkeypatch):
    use_compilation_cache(tmp_path / "compiled")
    [folder] = (tmp_path / "compiled").iterdir()
    for age, name in enumerate(["newest-cache", "middle-cache", "oldest-cache"]):
        (folder / name).write_bytes(b"x" * 40)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    # XLA's own, on a GPU; and a program that another job removes meanwhile.
    (folder / "xla_gpu_per_fusion_autotune_cache_dir").mkdir()
    (folder / "removed-cache").symlink_to("nowhere")
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compilation, "MOST_BYTES", 100)
    use_compilation_cache(tmp_path / "compiled")
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert {path.name for path in folder.iterdir() if path.exists()} == {
        "newest-cache", "middle-cache", "xla_gpu_per_fusion_autotune_cache_dir",
    }  # fmt: skip


@pytest.mark.slow
def test_second_start_compiles_nothing_and_finds_the_same(tmp_path):
    (tmp_path / "src").write_text("a b c\nb c\nc a\n" * 20)
    (tmp_path / "tgt").write_text("A B C\nB C\nC A\n" * 20)
    inherited = {
        k: v for k, v in ENVIRONMENT.items() if not (k.startswith("JAX_") and "CACHE" in k)
    }
    # A program that takes about as long as those that are kept would be kept at one start or other.
    inherited["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def job(run, **variables):
        train = ["train", "--run-dir", run, "--train", "src", "tgt", *SMALL]
        for command in (train, ["translate", "--run-dir", run, "--input", "src"]):
            done = subprocess.run(
                [sys.executable, "-m", "transformer_jax", *command],
                cwd=tmp_path, capture_output=True, text=True, check=True,
                env={**inherited, "TRANSFORMER_JAX_CACHE": str(tmp_path / "cache"), **variables},
            )  # fmt: skip
        losses = [record["loss"] for record in read_jsonl(tmp_path / run / "metrics.jsonl")
                  if "loss" in record]  # fmt: skip
        programs = {path.name for path in tmp_path.glob("cache/compiled/*/*-cache")}
        return losses, done.stdout, programs

    *without, programs = job("without", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not programs and len(without[0]) == 6
    *first, programs = job("first")
    *second, later = job("second")
    assert programs and later == programs
    assert without == first == second
