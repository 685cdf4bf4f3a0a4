"""Compiled programs are kept, and change nothing but time."""

import logging
import os
import subprocess
import sys

import pytest

from tests.small_job import ENVIRONMENT, read_jsonl
from transformer_jax.devices.compilation import use_compilation_cache

SMALL = [
    "--preset", "tiny", "--vocabulary", "whitespace", "--d-model", "16", "--num-heads", "2",
    "--steps", "6", "--log-every", "1", "--batch-tokens", "64", "--max-length", "8",
]  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Without settings of JAX's cache, and with those that a test made taken back."""
    for name in [*os.environ]:
        if "CACHE" in name and name.startswith("JAX_"):
            monkeypatch.delenv(name)
    for name in ("CACHE_DIR", "CACHE_MAX_SIZE"):
        monkeypatch.setenv(f"JAX_COMPILATION_{name}", "")
        monkeypatch.delenv(f"JAX_COMPILATION_{name}")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    return os.environ


def test_cache_is_used_and_bounded(environment, tmp_path):
    use_compilation_cache(tmp_path / "compiled")
    [folder] = (tmp_path / "compiled").iterdir()
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert int(environment["JAX_COMPILATION_CACHE_MAX_SIZE"]) == 2 * 2**30
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"  # the user's


def test_cache_of_the_user_is_kept(environment, tmp_path):
    environment["JAX_COMPILATION_CACHE_DIR"] = "mine"
    use_compilation_cache(tmp_path / "compiled")
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert not (tmp_path / "compiled").exists()


def test_cache_that_cannot_be_written_is_off(environment, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.INFO):
        use_compilation_cache(tmp_path / "file" / "compiled")
    assert "compiled programs are not kept" in caplog.text
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


@pytest.mark.slow
def test_second_start_compiles_nothing_and_finds_the_same(tmp_path):
    (tmp_path / "src").write_text("a b c\nb c\nc a\n" * 20)
    (tmp_path / "tgt").write_text("A B C\nB C\nC A\n" * 20)
    inherited = {
        k: v for k, v in ENVIRONMENT.items() if not (k.startswith("JAX_") and "CACHE" in k)
    }

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
