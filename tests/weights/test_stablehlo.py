"""Programs of StableHLO: of any batch and length they give what the package gives, without it."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_job import ENVIRONMENT
from tests.weights.models import make_translator
from transformer_jax import Search, Translator, UserError, generate, presets
from transformer_jax.functional.losses import token_log_probs
from transformer_jax.models.families import build_model
from transformer_jax.weights.stablehlo import write_stablehlo

pytest.importorskip("flatbuffers")

# Runs where jax and flatbuffers alone can be imported.
PROGRAM = """
import json, sys
import numpy as np

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in (
            "transformer_jax", "flax", "optax", "orbax", "sentencepiece", "safetensors", "etils",
            "tensorflow_datasets", "jaxtyping", "tyro",
        ):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
from jax import export
folder = sys.argv[1]
known = json.load(open(f"{folder}/model.json"))
arrays = np.load(f"{folder}/parameters.npz")
parameters = [arrays[name] for name in known["parameters"]]
inputs = np.load(f"{folder}/inputs.npz")
found = {}
for name in ("score", "greedy", "beam"):
    program = export.deserialize(bytearray(open(f"{folder}/{name}.stablehlo", "rb").read()))
    for batch in ("small", "large"):
        given = [inputs[f"{batch}_source"]]
        if name == "score":
            given.append(inputs[f"{batch}_target"])
        result = program.call(parameters, *given)
        for place, part in enumerate(result if isinstance(result, (tuple, list)) else [result]):
            found[f"{name}_{batch}_{place}"] = np.asarray(part)
np.savez(f"{folder}/outputs.npz", **found)
"""


def batches(config):
    """Of other numbers and lengths, with padding and without."""
    rng, found = np.random.default_rng(0), {}
    for name, rows, source, target in (("small", 1, 8, 16), ("large", 5, 24, 8)):
        for side, length, size in (
            ("source", source, config.vocab_size), ("target", target, config.target_size)
        ):  # fmt: skip
            ids = rng.integers(4, size, (rows, length)).astype(np.int32)
            for row, end in enumerate(rng.integers(1, length, rows)):
                ids[row, end], ids[row, end + 1 :] = 1, 0
            found[f"{name}_{side}"] = ids
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"position_encoding": "learned", "max_positions": 128, "norm_placement": "pre"}],
    ids=["paper", "learned"],
)
def test_programs_give_what_the_package_gives(tmp_path, options):
    translator = make_translator(**options)
    write_stablehlo(translator, tmp_path)
    model, variables = translator.model, {"params": translator.params}
    inputs = batches(model.config)
    np.savez(tmp_path / "inputs.npz", **inputs)
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, env=ENVIRONMENT)
    found = np.load(tmp_path / "outputs.npz")
    for batch in ("small", "large"):
        source, target = (jnp.asarray(inputs[f"{batch}_{side}"]) for side in ("source", "target"))
        expected = token_log_probs(model.apply(variables, source, target), target)
        expected = np.where(target == 0, 0, expected)
        np.testing.assert_allclose(found[f"score_{batch}_0"], expected, atol=1e-4)
        for name, search in (
            ("greedy", Search(method="greedy")), ("beam", Search(beam_size=4, alpha=0.6))
        ):  # fmt: skip
            wanted = generate(model, translator.params, source, search)
            np.testing.assert_array_equal(found[f"{name}_{batch}_0"], wanted.tokens)
            np.testing.assert_array_equal(found[f"{name}_{batch}_1"], wanted.lengths)
            np.testing.assert_allclose(found[f"{name}_{batch}_2"], wanted.log_probs, rtol=1e-4)
    known = json.loads((tmp_path / "model.json").read_text())
    assert known["max_length"] == (128 if options else 65_536)
    assert known["source_tokens"][:4] == ["<pad>", "</s>", "<unk>", "<s>"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn", "lstm", "convolutional", "restricted"])
def test_other_families_leave_too(tmp_path, name):
    config = replace(
        getattr(presets, name)(), vocab_size=330, d_model=16, d_ff=24, num_heads=2, num_layers=1
    )
    model = build_model(config)
    tokens = jnp.ones((1, 8), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]
    translator = Translator(model, params, make_translator().vocabulary)
    write_stablehlo(translator, tmp_path)
    program = jax.export.deserialize(bytearray((tmp_path / "greedy.stablehlo").read_bytes()))
    source = jnp.asarray(batches(config)["large_source"])
    found = program.call(jax.tree.leaves(params), source)
    wanted = generate(model, params, source, Search(method="greedy"))
    np.testing.assert_array_equal(found[0], wanted.tokens)


def test_batch_norm_is_refused(tmp_path):
    with pytest.raises(UserError, match="normalization 'batch' cannot be expressed in stablehlo"):
        write_stablehlo(make_translator(normalization="batch"), tmp_path)
    assert not list(tmp_path.iterdir())
