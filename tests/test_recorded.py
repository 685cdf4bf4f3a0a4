"""Initial parameters and losses of some configurations are those recorded at commit b872495.

tests/recorded.json holds them, written by `python -m tests.test_recorded FILE`. What moves
a parameter's path or draws other random numbers shows here; a processor's last bits do not.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.small_job import configuration, read_jsonl
from transformer_jax.functional.keys import seed_key
from transformer_jax.run.train import train

FILE = Path(__file__).parent / "recorded.json"
STEPS = 20
# Name -> fields of the model, of the optimizer and of training that differ from the small job's.
CONFIGURATIONS = {
    "base": ({}, {}, {}),
    "pre": (
        {
            "norm_placement": "pre",
            "position_encoding": "learned",
            "max_positions": 32,
            "tied_embeddings": "none",
        },
        {"accumulation_steps": 2, "clip_norm": 1.0, "ema_decay": 0.9},
        {},
    ),
    "additive": (
        {
            "attention_score": "additive",
            "tied_embeddings": "decoder",
            "attention_dropout": 0.1,
            "d_k": 4,
        },
        {"label_smoothing": 0.0},
        {"seed": 5},
    ),
    "narrow numbers": (
        {"dtype": "bfloat16", "activation_dropout": 0.1, "position_encoding": "t2t", "start_id": 3},
        {},
        {},
    ),
    "mesh": ({"num_layers": 2}, {}, {"parallel": "mesh", "mesh": "data=2,fsdp=2,tensor=2"}),
}


def measured(name, folder):
    """{parameters: path -> shape, sum and norm; losses: of every step}."""
    model, optimizer, options = CONFIGURATIONS[name]
    config = configuration(folder, STEPS, **{"log_every": 1, "evaluate_every": 100, **options})
    config = replace(
        config,
        model=replace(config.model, **model),
        optimizer=replace(config.optimizer, **optimizer),
    )
    run = train(config, folder / "run", progress=False)
    state = run.step_functions().init(seed_key(config.train.seed))
    parameters = {
        path: [*map(int, leaf.shape), float(np.sum(leaf)), float(np.linalg.norm(leaf))]
        for path, leaf in flatten_dict(state.params, sep="/").items()
    }
    records = read_jsonl(run.folder / "metrics.jsonl")
    return {"parameters": parameters, "losses": [r["loss"] for r in records if "loss" in r]}


@pytest.mark.parametrize(
    "name",
    [n if n == "pre" else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGURATIONS],
)
def test_recorded_numbers_are_reproduced(tmp_path, name):
    expected, found = json.loads(FILE.read_text(encoding="utf-8"))[name], measured(name, tmp_path)
    assert found["parameters"].keys() == expected["parameters"].keys()
    for path, values in expected["parameters"].items():
        assert found["parameters"][path] == pytest.approx(values, rel=1e-5, abs=1e-5), path
    # bfloat16 rounds a last bit of float32 to one of its own.
    tolerance = 2e-3 if name == "narrow numbers" else 2e-5
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=tolerance)
    assert len(found["losses"]) == STEPS


if __name__ == "__main__":
    record = {}
    for each in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as made:
            record[each] = measured(each, Path(made))
    Path(sys.argv[1]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
