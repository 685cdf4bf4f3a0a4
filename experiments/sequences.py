"""Small tasks of sequences, drawn as they are needed: the last token follows from the others."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from transformer_jax import functional
from transformer_jax.config import ModelConfig, TrainConfig
from transformer_jax.devices.layout import Layout
from transformer_jax.models.convolutional import ConvolutionalDecoder
from transformer_jax.models.decoder import Decoder
from transformer_jax.models.dimensions import boxed_init
from transformer_jax.models.recurrent import RecurrentDecoder
from transformer_jax.training.loop import train_loop
from transformer_jax.training.runners import SingleDeviceRunner
from transformer_jax.training.step import make_step

__all__ = ["RATE", "Trained", "changed_fields", "stack", "train_on_sequences"]

# Of Adam, for all models.
RATE = 2e-3


def stack(config: ModelConfig) -> nn.Module:
    """The decoder of a configuration, which reads no source."""
    made = {"transformer": Decoder, "convolutional": ConvolutionalDecoder}
    return made.get(config.architecture, RecurrentDecoder)(config, cross=False)


def changed_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that are not at their defaults, by which a result is known for ever."""
    return {n: v for n, v in vars(config).items() if v != getattr(ModelConfig, n)}


class Trained(NamedTuple):
    """A model after its training.

    Attributes:
        params: Its parameters.
        accuracy: Sequences [rows, T] -> the share of last tokens that it predicts.
        largest_gradient_norm: Of all updates, before clipping.
        skipped: Updates whose gradient was not finite.
    """

    params: Any
    accuracy: Callable[[np.ndarray], float]
    largest_gradient_norm: float
    skipped: int

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def train_on_sequences(
    config: ModelConfig,
    batches: Iterator[np.ndarray],
    steps: int,
    seed: int,
    clip_norm: float | None = 1.0,
    prepare: Callable[[Any], Any] = lambda variables: variables,
) -> Trained:
    """Train a stack to predict the last token of each sequence.

    Args:
        config: The model.
        batches: Token ids [rows, T] of each update.
        steps: Updates.
        seed: Of the parameters.
        clip_norm: Largest norm of a gradient; None does not clip.
        prepare: Changes the initial variables.
    """
    model = stack(config)

    def last_logits(params, tokens):
        features: Any = model.apply({"params": params}, tokens, method="features")
        return model.apply({"params": params}, features[:, -1:], method="project")

    def loss_fn(params, collections, tokens, rng):
        logits: Any = last_logits(params, tokens)
        total, count = functional.label_smoothed_cross_entropy(logits, tokens[:, -1:], 0.0)
        return total, count, {}, collections

    optimizer = optax.adam(RATE)
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    boxed = boxed_init(model, jnp.ones((1, 2), jnp.int32))
    functions = make_step(lambda rng: prepare(nn.unbox(boxed(rng))), loss_fn, optimizer)
    runner = SingleDeviceRunner(functions, Layout(jax.devices()[:1]))
    norms: list[jax.Array] = []

    def step(state, batch):
        state, metrics = runner(state, batch)
        norms.append(metrics["gradient_norm"])
        return state, metrics

    train = TrainConfig(steps=steps, evaluate_every=steps, checkpoint_every=steps)
    state = jax.jit(functions.init)(functional.seed_key(seed))
    state = train_loop(state, step, ([batch] for batch in batches), train)
    predicted = jax.jit(lambda params, tokens: jnp.argmax(last_logits(params, tokens)[:, 0], -1))

    def accuracy(tokens: np.ndarray) -> float:
        return float(np.mean(np.asarray(predicted(state.params, tokens)) == tokens[:, -1]))

    return Trained(state.params, accuracy, max(map(float, norms)), int(state.skipped))
