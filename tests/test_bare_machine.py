"""A machine with an accelerator may lack what only datasets, options, boards and scores need."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

import transformer_jax
from tests.small_job import ENVIRONMENT, configuration

MISSING = ("tensorflow_datasets", "array_record", "tyro", "tensorboardX", "sacremoses", "beartype",
           "torch", "transformers")  # fmt: skip
# Python imports it as it starts, in processes that are started from the test, too.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({MISSING}))\n"
PROGRAM = """
import json, sys, time
from pathlib import Path
from benchmarks import accelerator
from transformer_jax import RunConfig, Translator
from transformer_jax.run.train import train

folder = Path(sys.argv[1])
for name in ("first", "second"):
    train(RunConfig.from_json((folder / name).read_text()), folder / "run", progress=False)
translator = Translator.load(folder / "run")
evaluation = translator.evaluate(["w1 w2", "w3"], ["W2 W1", "W3"], language="de", extra_length=4)
for phase in ("check", "train"):
    accelerator.run_phase(phase, folder, time.monotonic() + 900, True, None)
print(json.dumps([translator.checkpoint, [score.name for score in evaluation.scores]]))
"""

# What an import may load, beside what these themselves need.
LIGHT = """
import sys
allowed = set(sys.argv[2].split())
OTHERS = {"flax", "optax", "orbax", "etils", "jaxtyping", "array_record", "matplotlib", "regex",
    "sacrebleu", "sacremoses", "sentencepiece", "sentencex", "tensorboardX", "tensorflow_datasets",
    "tqdm", "tyro"}
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS - allowed:
            raise ImportError(name)
sys.meta_path.insert(0, Refusing())
import transformer_jax
for name in sys.argv[1].split():
    getattr(transformer_jax, name)
"""


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ("presets ModelConfig RunConfig UserError Search", ""),
        ("functional", "jaxtyping"),
        (" ".join(transformer_jax.__all__), "jaxtyping flax optax orbax etils"),
    ],
    ids=["configuration", "functional", "everything"],
)
def test_imports_load_only_what_they_need(names, allowed):
    command = [sys.executable, "-c", LIGHT, names, allowed]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_training_translation_and_evaluation_need_no_extras(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCK)
    config = configuration(tmp_path, steps=12)
    config = replace(
        config,
        model=replace(config.model, vocab_size=276),
        data=replace(config.data, vocabulary="bpe", cache_dir=str(tmp_path / "cache")),
    )
    (tmp_path / "second").write_text(config.to_json())
    short = replace(config, train=replace(config.train, steps=6))
    (tmp_path / "first").write_text(short.to_json())
    path = f"{site}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True, text=True,
        env={**ENVIRONMENT, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint, scores = json.loads(done.stdout.splitlines()[-1])
    assert checkpoint == "averaged at step 12"
    assert scores == ["BLEU", "chrF", "TER"]
    assert "no compound-split BLEU: sacremoses is not installed" in done.stderr
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["step"] == 12
    check, train = (
        json.loads((tmp_path / f"{phase}.json").read_text()) for phase in ("check", "train")
    )
    assert check["ended"]
    assert check["failed"] == []
    assert check["float32"]["compared"] > check["bfloat16"]["compared"] > 80
    assert train["base, ours"]["target_tokens_per_second"] > 0
    assert "base, torch" not in train
