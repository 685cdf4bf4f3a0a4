"""Why several layers: which of two tokens came first, asked of attention without positions.

A sequence holds the tokens a and b among noise, and a question; the answer is the one that came
first. Without position encodings a causal layer gives its last position an average over the tokens
before it, which is the same in any order: one layer, however wide, can do no better than chance. In
a second layer the state of b already tells whether a was among the tokens before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sequences import SequenceWork, train_on_sequences
from transformer_jax.config import ModelConfig

__all__ = ["MODELS", "Order", "which_first"]

# Ids of a and b, of noise and of the question; tokens before it, sequences in a batch, and batches
# that are scored.
FIRST, SECOND, NOISE, QUESTION = 4, 5, range(6, 14), 14
LENGTH, ROWS, SCORED = 16, 32, 32

_COMMON: dict[str, Any] = {
    "vocab_size": 16,
    "dropout": 0.0,
    "num_heads": 2,
    "position_encoding": "none",
}
MODELS = {
    "1 layer": ModelConfig(num_layers=1, d_model=32, d_ff=128, **_COMMON),
    "1 layer, four times as wide": ModelConfig(num_layers=1, d_model=128, d_ff=512, **_COMMON),
    "2 layers": ModelConfig(num_layers=2, d_model=32, d_ff=128, **_COMMON),
    "1 layer, with positions": ModelConfig(
        num_layers=1, d_model=32, d_ff=128, **{**_COMMON, "position_encoding": "paper"}
    ),
}


def which_first(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Draw noise with a and b in it, the question and the answer: [rows, LENGTH + 2].

    >>> found = which_first(np.random.default_rng(0), 3)
    >>> found.shape
    (3, 18)
    """
    found = rng.choice(NOISE, (rows, LENGTH + 2))
    places = np.argsort(rng.random((rows, LENGTH)), axis=1)[:, :2]
    every = np.arange(rows)
    found[every, places[:, 0]], found[every, places[:, 1]] = FIRST, SECOND
    found[:, -2] = QUESTION
    found[:, -1] = np.where(places[:, 0] < places[:, 1], FIRST, SECOND)
    return found.astype(np.int32)


@dataclass(frozen=True)
class Order(SequenceWork):
    """A model of MODELS, trained and asked."""

    row: str
    seed: int
    folder: Path
    steps: int

    @property
    def config(self) -> ModelConfig:
        return MODELS[self.row]

    @property
    def task(self) -> list[Any]:
        return [FIRST, SECOND, list(NOISE), QUESTION, LENGTH, ROWS, SCORED]

    def find(self) -> dict:
        trained = train_on_sequences(self.config, self._batches(), self.steps, self.seed)
        rng = np.random.default_rng(10**6)
        accuracy = trained.accuracy(which_first(rng, ROWS) for _ in range(SCORED))
        return {"accuracy": accuracy, "parameters": trained.size}

    def describe(self, found: dict) -> str:
        return f"{found['accuracy']:.0f}%"

    def _batches(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield which_first(rng, ROWS)
