"""The time of one layer of each type, by the length of the sequences, and of a model's update."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.comparison import compare
from benchmarks.steps import our_step
from experiments.ledger import Cell, Table
from experiments.tasks import Work, changed_fields
from transformer_jax.config import ModelConfig
from transformer_jax.models.convolutional import GatedConvolution
from transformer_jax.models.layers import MultiHeadAttention
from transformer_jax.models.recurrent import carry_from, make_cell, scan_steps

__all__ = ["LENGTHS", "OURS", "TIMED", "Speeds", "layer_of", "time_table"]

LENGTHS, TOKENS = (16, 64, 256, 1024, 4096), 4096
OURS = "self-attention"
# In which the updates of whole models are timed.
ROUNDS = 15

# Of one layer each; a width that gives it as many matrix entries as 4 * 128^2.
TIMED = {
    OURS: ModelConfig(d_model=128, num_heads=4),
    "restricted, radius 16": ModelConfig(d_model=128, num_heads=4, attention_radius=16),
    "rnn": ModelConfig(architecture="rnn", d_model=181, num_heads=1, position_encoding="none"),
    "lstm": ModelConfig(architecture="lstm", d_model=90, num_heads=1),
    "convolutional, k 3": ModelConfig(architecture="convolutional", d_model=104, num_heads=1),
}


class _Recurrence(nn.Module):
    """One direction of a recurrent layer, from an empty state."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x):
        cell = make_cell(self.config, self.config.d_model)
        empty = carry_from(self.config, jnp.zeros((len(x), self.config.d_model)))
        return scan_steps(lambda cell, carry, x: cell(carry, x), cell, empty, x)[1]


def layer_of(config: ModelConfig) -> tuple[nn.Module, tuple[None, ...]]:
    """One layer, [B, n, D] -> [B, n, D], and what it is called with besides."""
    if config.architecture == "transformer":
        return MultiHeadAttention(config, cross=False), (None, None)  # it attends to x, unmasked
    if config.architecture == "convolutional":
        return GatedConvolution(config, 1, True), ()
    return _Recurrence(config), ()


def time_table(rounds: int, lengths: Sequence[int] = LENGTHS) -> list[Table]:
    """Milliseconds of a layer, forward and backward; from where self-attention is slower; and how
    far the rounds lie apart."""
    found: dict[int, dict[str, float]] = {}
    spreads: list[list[Cell]] = []
    for length in lengths:
        sides = {name: _timed(config, length) for name, config in TIMED.items()}
        times, _ = compare(sides, rounds)
        found[length] = {name: 1000 * times[name].median for name in TIMED}
        spreads.append([length, *(100 * times[name].spread for name in TIMED)])
    rows: list[list[Cell]] = [
        [length, TOKENS // length, *each.values()] for length, each in found.items()
    ]
    crossings: list[list[Cell]] = [
        [name, slower_from({n: each[OURS] - each[name] for n, each in found.items()})]
        for name in TIMED
        if name != OURS
    ]
    return [
        Table("Milliseconds, forward and backward", ["n", "sequences", *TIMED], rows, 1),
        Table("Self-attention is slower", ["than", "from n on, of those measured"], crossings),
        Table("From the fastest to the slowest round, % of the median", ["n", *TIMED], spreads, 0),
    ]


def slower_from(behind: dict[int, float]) -> int | None:
    """The length from which on a difference is positive at all that were measured, or None.

    >>> slower_from({16: 0.1, 64: -1.0, 256: 2.0, 1024: 9.0})
    256
    """
    reached = None
    for length in sorted(behind, reverse=True):
        if behind[length] <= 0:
            break
        reached = length
    return reached


def _timed(config: ModelConfig, length: int) -> Callable[[], Any]:
    layer, given = layer_of(config)
    x = jax.random.normal(jax.random.key(0), (TOKENS // length, length, config.d_model))
    params = nn.unbox(layer.init(jax.random.key(1), x[:1, :2], *given))

    def loss(params, x):
        found: Any = layer.apply(params, x, *given)
        return jnp.sum(found**2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(gradient(params, x))


@dataclass(frozen=True)
class Speeds(Work):
    """Seconds of an update of each model, measured side by side in one process.

    In a run of its own each would have the load of its hour.

    models  layer type -> model
    rows    sentences of an update
    length  tokens of each side of a sentence
    """

    row: str
    seed: int
    folder: Path
    models: Mapping[str, ModelConfig]
    rows: int
    length: int

    @property
    def identity(self) -> str:
        models = {name: changed_fields(model) for name, model in self.models.items()}
        known = [models, self.rows, self.length, ROUNDS]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def find(self) -> dict[str, Any]:
        sides = {
            name: our_step(model, self.rows, self.length).take
            for name, model in self.models.items()
        }
        times, _ = compare(sides, ROUNDS)
        return {"seconds": {name: each.median for name, each in times.items()}}

    def describe(self, found: dict) -> str:
        return ", ".join(f"{name} {1 / each:.1f}" for name, each in found["seconds"].items())
