"""Long memory: recalling a token from 8 to 512 places back, by each layer type.

A sequence is a symbol, noise, and a question; what follows is the symbol again. Each model is a
decoder that reads no source, with about as many parameters as the others, as many updates and the
same sequences, of which each update has one distance, drawn evenly. So how far a model remembers is
seen by distance, and why by the norm of the derivative over that distance.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.sequences import RATE, SequenceWork, stack, train_on_sequences
from transformer_jax.config import ModelConfig

__all__ = ["DISTANCES", "MODELS", "Recall", "derivative_norms"]

DISTANCES = (8, 16, 32, 64, 128, 256, 512)
# Ids of symbols, of noise and of the question; those before are the vocabulary's own.
SYMBOLS, NOISE, QUESTION = range(4, 12), range(12, 28), 28
# Sequences in a batch, and batches that are scored of each distance.
ROWS, SCORED = 16, 16

_COMMON = ModelConfig(vocab_size=32, dropout=0.0, num_heads=1, num_layers=2)
_ATTENTION = replace(_COMMON, num_heads=4, d_model=64, d_ff=256)
# About 100,000 parameters each, besides the table.
MODELS = {
    "rnn": replace(_COMMON, architecture="rnn", d_model=156),
    "lstm": replace(_COMMON, architecture="lstm", d_model=78),
    "convolutional, 4 layers": replace(
        _COMMON, architecture="convolutional", d_model=64, num_layers=4
    ),
    "convolutional, 8 layers": replace(
        _COMMON, architecture="convolutional", d_model=46, num_layers=8
    ),
    "convolutional, 9 layers, dilated": replace(
        _COMMON, architecture="convolutional", d_model=42, num_layers=9, dilation_base=2
    ),
    "self-attention, radius 16": replace(_ATTENTION, attention_radius=16),
    "self-attention": _ATTENTION,
}


def sequences(rng: np.random.Generator, distance: int, rows: int) -> np.ndarray:
    """Draw symbol, noise, question and symbol: [rows, distance + 2].

    The question comes `distance` places after the symbol.

    >>> sequences(np.random.default_rng(0), 8, 2).shape
    (2, 10)
    """
    symbol = rng.choice(SYMBOLS, (rows, 1))
    noise = rng.choice(NOISE, (rows, distance - 1))
    question = np.full((rows, 1), QUESTION)
    return np.concatenate([symbol, noise, question, symbol], axis=1).astype(np.int32)


@dataclass(frozen=True)
class Recall(SequenceWork):
    """One model, trained and asked at each distance."""

    row: str
    seed: int
    folder: Path
    steps: int
    clip_norm: float | None = 1.0
    forget_bias: float = 0.0
    distances: tuple[int, ...] = DISTANCES
    rate: float = field(default=RATE, metadata={"later": True})
    recurrent_scale: float = field(default=1.0, metadata={"later": True})

    @property
    def config(self) -> ModelConfig:
        return MODELS[self.row]

    @property
    def task(self) -> list[Any]:
        return [list(SYMBOLS), list(NOISE), QUESTION, ROWS, SCORED]

    def find(self) -> dict[str, Any]:
        trained = train_on_sequences(
            self.config,
            self._batches(),
            self.steps,
            self.seed,
            self.clip_norm,
            self.rate,
            lambda variables: _with_forget_bias(
                scale_recurrence(variables, self.recurrent_scale), self.forget_bias
            ),
        )
        rng = np.random.default_rng(10**6)
        accuracy = {
            str(distance): trained.accuracy(sequences(rng, distance, ROWS) for _ in range(SCORED))
            for distance in self.distances
        }
        return {
            "accuracy": accuracy,
            "parameters": trained.size,
            "largest_gradient_norm": trained.largest_gradient_norm,
            "skipped": trained.skipped,
        }

    def describe(self, found: dict) -> str:
        return "  ".join(f"{d}: {share:.0f}%" for d, share in found["accuracy"].items())

    def _batches(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield sequences(rng, int(rng.choice(self.distances)), ROWS)


def _with_forget_bias(variables, bias: float):
    """Add to the bias of an LSTM's forget gate, which begins at 0."""

    def added(path, leaf):
        names = [str(getattr(key, "key", "")) for key in path]
        return leaf + bias if names[-2:] == ["hf", "bias"] else leaf

    return jax.tree_util.tree_map_with_path(added, variables)


def scale_recurrence(variables: Any, factor: float) -> Any:
    """Multiply the kernels by which a recurrent cell reads its own state, which are orthogonal."""

    def scaled(path, leaf):
        is_recurrent = any(str(getattr(key, "key", "")).startswith("h") for key in path)
        return leaf * factor if is_recurrent and path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(scaled, variables)


def derivative_norms(
    config: ModelConfig, distances: tuple[int, ...], recurrent_scale: float = 1.0
) -> dict[int, float]:
    """Norms of the derivative of the last feature by the input so many places before.

    Args:
        config: A model with its initial parameters.
        distances: From the input to the feature.
        recurrent_scale: As in `scale_recurrence`.

    Returns:
        Distance -> root mean square over features of the norm of a feature's derivative.
    """
    length = max(distances) + 1
    # Tokens that are all different: the gradient of a row of the table is that of its position.
    config = replace(config, vocab_size=length + 4, tied_embeddings="none")
    model, tokens = stack(config), jnp.arange(4, length + 4)[None]
    # Its last token is read by nobody: a decoder shifts its target.
    tokens = jnp.concatenate([tokens, tokens[:, :1]], axis=1)
    params = jax.jit(lambda rng: nn.unbox(model.init(rng, tokens)))(jax.random.key(0))["params"]
    params = scale_recurrence(params, recurrent_scale)

    def projected(table, direction):
        given = {**params, "target_embedding": table}
        features: Any = model.apply({"params": given}, tokens, method="features")
        return jnp.vdot(features[0, -1], direction)

    directions = jax.random.normal(jax.random.key(1), (32, config.d_model))
    gradient = jax.jit(jax.vmap(jax.grad(projected), in_axes=(None, 0)))
    found = gradient(params["target_embedding"], directions)  # [32, V, D]
    # Of the embedding, which is the row times sqrt(D); a direction has D features.
    norms = jnp.sqrt(jnp.mean(jnp.sum(found**2, -1), 0)) / config.d_model
    return {distance: float(norms[length + 3 - distance]) for distance in distances}
