"""Numbers of a small model as a CPU computes them, in golden.npz, for other devices to be held to.

    JAX_PLATFORMS=cpu python -m benchmarks.golden        records them again

The file holds the parameters too, so that a device is compared on the same model whatever its
initialisation draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax import functional
from transformer_jax.config import ModelConfig, OptimizerConfig
from transformer_jax.data.batching import Batch
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.models.transformer import Transformer
from transformer_jax.tasks import Task

__all__ = ["PARAMETER", "Comparison", "compare", "named", "parameters"]

FILE = Path(__file__).with_name("golden.npz")
MODEL = ModelConfig(vocab_size=53, d_model=16, d_ff=32, num_heads=2, num_layers=2)
ROWS = 24
PARAMETER = "parameter"
# float32 at full precision, of the largest entry of each array; bfloat16, of the largest of all
# gradients, logits or log-probabilities: at the start attention is nearly even, and what is left of
# the gradients of queries and keys, one in a hundred of the others, is off by 7% of itself.
LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}
SEARCHES = {"greedy": Search(method="greedy", extra_length=5), "beam": Search(extra_length=5)}


@dataclass(frozen=True)
class Comparison:
    """One quantity on this device beside the file: its distance, and what is allowed."""

    name: str
    distance: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.distance <= self.limit  # not so where the distance is no number


def batch() -> Batch:
    """Sentences of many lengths."""
    rng = np.random.default_rng(0)
    sides = [np.zeros((ROWS, width), np.int32) for width in (17, 13)]
    for side in sides:
        for row in side:
            length = rng.integers(2, side.shape[1] + 1)
            row[:length] = [*rng.integers(4, MODEL.vocab_size, length - 1), 1]
    return Batch(*sides, np.arange(ROWS, dtype=np.int32))


def named(kind: str, tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree as a file keeps them, "KIND PATH" -> array."""
    return {f"{kind} {n}": np.asarray(leaf) for n, leaf in flatten_dict(tree, sep="/").items()}


def parameters(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Path -> array of the parameters in a file."""
    start = f"{PARAMETER} "
    return {n.removeprefix(start): x for n, x in golden.items() if n.startswith(start)}


def computed(params: Any, dtype: str) -> dict[str, np.ndarray]:
    """Logits, loss and gradients of `batch`, and what searches find, on this device."""
    model = Transformer(replace(MODEL, dtype=dtype, dropout=0.0))
    functions, given = Task().step_functions(model, OptimizerConfig(), seed=0), batch()
    sums = jax.jit(functions.gradients)(params, {}, given, jax.random.key(0))
    logits: Any = jax.jit(model.apply)({"params": params}, given.source, given.target)
    found = {"logits": logits, "loss": sums.loss}
    found |= named("gradient", sums.gradients)
    sources = [row[row > 1].tolist() for row in given.source]
    inference = BatchDecoder(model, {"params": params})
    for name, search in SEARCHES.items():
        best = [found[0] for found in inference.translate(sources, search)]
        found[f"{name} tokens"] = np.concatenate([[len(b.ids), *b.ids] for b in best])
        found[f"{name} log-probabilities"] = np.array([b.log_prob for b in best], np.float32)
    return {name: np.asarray(value) for name, value in found.items()}


def dropped() -> np.ndarray:
    """Which of some entries dropout keeps, by whole batch and by row: bits, equal everywhere."""
    x = jnp.ones((5, 7, 16))
    rng = functional.seed_key(3)
    rows = functional.fold_in_rows(rng, jnp.arange(5))
    return np.stack([np.asarray(functional.dropout(x, 0.3, key)) > 0 for key in (rng, rows)])


def compare(dtype: str) -> Iterator[Comparison]:
    """Every quantity of this device beside the CPU's; float32 is multiplied at full precision.

    Tokens are compared in float32 alone: what bfloat16 rounds may choose others.
    """
    with np.load(FILE, allow_pickle=False) as file:
        golden = dict(file)
    flat = parameters(golden)
    golden = {name: value for name, value in golden.items() if not name.startswith(PARAMETER)}
    params = unflatten_dict({name: jnp.asarray(leaf) for name, leaf in flat.items()}, sep="/")
    kept = golden.pop("dropout")
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        found = computed(params, dtype)
    if dtype == "float32":
        yield Comparison("dropout masks, bits that differ", float((dropped() != kept).sum()), 0)
        start = jax.jit(Transformer(MODEL).init)(functional.seed_key(0), *batch()[:2])["params"]
        for name, leaf in flatten_dict(start, sep="/").items():
            yield Comparison(f"initial {name}", _distance(leaf, flat[name], flat[name]), 1e-6)
    for name, expected in golden.items():
        value = found[name]
        if name.endswith("tokens"):
            if dtype == "float32":
                same = value.shape == expected.shape and (value == expected).all()
                yield Comparison(name, 0.0 if same else np.inf, 0)
            continue
        if dtype == "float32":
            # The true gradient of a key's bias is zero: beside it stands what is rounded.
            beside = golden.get(name.replace("key/bias", "value/bias"), expected)
        elif name.endswith("log-probabilities"):
            continue
        else:
            kind = name.split()[0]
            beside = max(np.abs(golden[n]).max() for n in golden if n.startswith(kind))
        yield Comparison(name, _distance(value, expected, beside), LIMITS[dtype])


def _distance(value, expected, beside) -> float:
    """The largest difference, of the largest entry of `beside`."""
    difference = np.abs(np.asarray(value, np.float64) - expected).max()
    return float(difference / np.maximum(np.abs(beside).max(), 1e-30))


def main() -> None:
    if jax.default_backend() != "cpu":
        raise SystemExit(f"this is a {jax.default_backend()}: the numbers are those of a CPU")
    params = jax.jit(Transformer(MODEL).init)(functional.seed_key(0), *batch()[:2])["params"]
    given = named(PARAMETER, params)
    np.savez_compressed(FILE, dropout=dropped(), **given, **computed(params, "float32"))
    print(FILE)


if __name__ == "__main__":
    main()
