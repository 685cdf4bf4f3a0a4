"""JAX_ENABLE_X64=1: what means float32 says so, and a run is what it is without."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.small_job import ONE_DEVICE, configuration

PROGRAM = """
import json, sys
from pathlib import Path
from transformer_jax import RunConfig, Translator
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.average import average
from transformer_jax.run.train import train
from transformer_jax.decoding.options import Search

folder = Path(sys.argv[1])
train(RunConfig.from_json((folder / "wanted.json").read_text()), folder / "run", progress=False)
average(folder / "run", last=2)
translator = Translator.load(folder / "run")
sources, targets = ["w1 w2 w3", "w4 w5", "w11"], ["W3 W2 W1", "W5 W4", "W11"]
searches = {
    "beam": Search(extra_length=4),
    "t2t": Search(eos_rule="t2t", length_penalty="power", extra_length=4),
    "greedy": Search(method="greedy", extra_length=4),
    "sample": Search(method="sample", n_best=2, top_k=9, top_p=0.9, seed=1, extra_length=4),
}
found = {}
for name, search in searches.items():
    translations = translator.translations(sources, search)
    found[name] = [[(t.text, t.log_prob) for t in each] for each in translations]
found["scores"] = translator.score(sources, targets)
found["perplexity"] = translator.evaluate(sources, targets, language="de").perplexity
found["attention"] = float(translator.attention("w1 w2", "W2").cross[0, 0, 0, 0])
found["intact"] = describe_run(folder / "run").count("intact")
print(json.dumps(found))
"""


def outcome(folder, enabled):
    """(what the program prints, its records) with 64-bit types or without."""
    folder.mkdir()
    config = configuration(folder, steps=12)
    # A rate at which the last bit of an update stays the last bit.
    optimizer = replace(
        config.optimizer, lr_factor=0.05, accumulation_steps=2, ema_decay=0.9, clip_norm=1.0
    )
    config = replace(config, optimizer=optimizer)
    (folder / "wanted.json").write_text(config.to_json())
    environment = {**ONE_DEVICE, "JAX_ENABLE_X64": str(enabled), "JAX_PLATFORMS": "cpu",
                   "TRANSFORMER_JAX_CACHE": str(folder / "cache")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    records = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return json.loads(done.stdout.splitlines()[-1]), list(map(json.loads, records))


@pytest.mark.slow
def test_run_with_64_bit_types_is_the_same(tmp_path):
    """But for the last bits of Adam's bias correction, which optax computes in the default type."""
    plain, records = outcome(tmp_path / "plain", 0)
    wide, wide_records = outcome(tmp_path / "wide", 1)
    assert wide_records[0]["learning_rate"] == records[0]["learning_rate"]
    for old, new in zip(records, wide_records, strict=True):
        assert new == pytest.approx(old, rel=1e-6)
    for name in plain:
        texts, numbers = zip(*(_apart(found[name]) for found in (plain, wide)))
        assert texts[0] == texts[1]
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-6)


@pytest.mark.slow
def test_commands_with_64_bit_types_print_the_same(uninterrupted_run, tmp_path):
    """What is not asked of the package above: schedule, prepare, attention, verify-resume."""
    run = str(uninterrupted_run[2].folder)
    config = configuration(tmp_path)
    (tmp_path / "given.json").write_text(config.to_json())

    def outputs(enabled, *arguments):
        folder = tmp_path / str(enabled)
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "transformer_jax.cli", *arguments],
            capture_output=True, text=True, cwd=folder,
            env={**ONE_DEVICE, "JAX_ENABLE_X64": str(enabled), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    for arguments in (
        ["schedule", "--config", "../given.json"],
        ["prepare", "--config", "../given.json", "--output", "corpus"],
        ["attention", "--run-dir", run, "--source", "w1 w2", "--output", "a.png"],
        ["attention", "--run-dir", run, "--source", "w1 w2", "--html", "a.html"],
        ["verify-resume", "--config", "../given.json", "--updates", "12", "--kills", "1",
         "--output", "verified"],
    ):  # fmt: skip
        narrow, wide = (outputs(enabled, *arguments) for enabled in (0, 1))
        if arguments[0] != "verify-resume":  # its kills fall anywhere; it exits with 0
            assert narrow == wide
    for name in ("corpus/train/source.tokens.npy", "corpus/train/corpus.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def _apart(tree):
    """(texts, numbers) of nested lists."""
    if isinstance(tree, list):
        parts = [_apart(each) for each in tree]
        return [t for p in parts for t in p[0]], [n for p in parts for n in p[1]]
    return ([], [float(tree)]) if isinstance(tree, int | float) else ([tree], [])
