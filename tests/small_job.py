"""A job on a small language: reversed sentences, which need attention and little time."""

import json
import os
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

from transformer_jax import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.train import train

WORDS = [f"w{i}" for i in range(12)]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
# A user's CPU is one device; the eight of the tests would each take part in every search.
ONE_DEVICE = {
    **ENVIRONMENT,
    "XLA_FLAGS": re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"]),
}
PROGRAM = """
import sys
from pathlib import Path
from transformer_jax import RunConfig
from transformer_jax.run.train import train
folder = Path(sys.argv[1])
train(RunConfig.from_json((folder / "wanted.json").read_text()), folder / "run", progress=False)
"""


def write_text(folder, count=400, seed=0):
    """Sentences of a few words and the same reversed, in capitals."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [rng.choices(WORDS, k=rng.randint(2, 5)) for _ in range(count)]
    (folder / "src").write_text("".join(" ".join(line) + "\n" for line in lines))
    (folder / "tgt").write_text("".join(" ".join(line[::-1]).upper() + "\n" for line in lines))
    return str(folder / "src"), str(folder / "tgt")


def configuration(folder, steps=24, **train_options):
    model = ModelConfig(vocab_size=100, d_model=16, d_ff=32, num_heads=2, num_layers=1)
    options = {"log_every": 5, "evaluate_every": 12, "checkpoint_every": 6, "average_last": 2}
    options["parallel"] = "jit"  # tests have eight devices
    return RunConfig(
        model,
        OptimizerConfig(warmup_steps=20),
        DataConfig(
            train=write_text(folder / "train"),
            validation=write_text(folder / "validation", 40, seed=1),
            vocabulary="whitespace",
            max_length=16,
            batch_tokens=64,
            max_batch_shapes=2,
        ),
        TrainConfig(steps=steps, **{**options, **train_options}),
    )


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_fingerprints(folder):
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    return checkpoints.metadata(checkpoints.steps()[-1])["fingerprints"]


def command(folder, config, before=""):
    """A command line that trains `config` in folder/run, in ENVIRONMENT; `before` is run first."""
    (folder / "wanted.json").write_text(config.to_json())
    return [sys.executable, "-c", before + PROGRAM, str(folder)]


def train_in_parts(config, folder, stop, **options):
    """The run of a config, and the same stopped after a step and gone on with."""
    whole = train(config, folder / "whole", progress=False, **options)
    first = replace(config, train=replace(config.train, steps=stop))
    train(first, folder / "parts", progress=False, **options)
    return whole, train(config, folder / "parts", progress=False, **options)


def check_equal(whole, parts):
    assert last_fingerprints(whole.folder) == last_fingerprints(parts.folder)
    records, others = (read_jsonl(run.folder / "metrics.jsonl") for run in (whole, parts))
    # The last step of a part is evaluated beside those that are due.
    assert [r for r in records if "loss" in r] == [r for r in others if "loss" in r]
    return records
