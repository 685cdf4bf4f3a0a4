"""Small tasks of sequences, drawn as they are needed: the last token follows from the others."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.tasks import Work, changed_fields
from transformer_jax import functional
from transformer_jax.config import ModelConfig, OptimizerConfig, TrainConfig
from transformer_jax.devices.layout import Layout
from transformer_jax.models.convolutional import ConvolutionalDecoder
from transformer_jax.models.decoder import Decoder
from transformer_jax.models.dimensions import boxed_init
from transformer_jax.models.recurrent import RecurrentDecoder
from transformer_jax.training.loop import train_loop
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.runners import SingleDeviceRunner
from transformer_jax.training.step import make_step

__all__ = ["RATE", "SequenceWork", "Trained", "stack", "train_on_sequences"]

# Of Adam, for all models.
RATE = 2e-3


def stack(config: ModelConfig) -> nn.Module:
    """The decoder of a configuration, which reads no source."""
    made = {"transformer": Decoder, "convolutional": ConvolutionalDecoder}
    return made.get(config.architecture, RecurrentDecoder)(config, cross=False)


class SequenceWork(Work):
    """Work that trains a stack on such a task; a subclass is a dataclass.

    A field that is marked `later` came after the first results, which know nothing of it.
    """

    @property
    @abstractmethod
    def config(self) -> ModelConfig:
        """The model."""

    @property
    @abstractmethod
    def task(self) -> list[Any]:
        """The constants of the task, beside the fields of the work."""

    @property
    def identity(self) -> str:
        changed = changed_fields(self.config)
        own = {
            each.name: getattr(self, each.name)
            for each in fields(self)  # type: ignore[arg-type]
            if not each.metadata.get("later") or getattr(self, each.name) != each.default
        }
        known = own | {"folder": None, "task": [*self.task, RATE], "model": changed}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class Trained(NamedTuple):
    """A model after its training.

    Attributes:
        params: Its parameters.
        predict: Sequences [rows, T] -> the last token of each, from those before it.
        largest_gradient_norm: Of all updates, before clipping.
        skipped: Updates whose gradient was not finite.
    """

    params: Any
    predict: Callable[[np.ndarray], np.ndarray]
    largest_gradient_norm: float
    skipped: int

    def accuracy(self, batches: Iterable[np.ndarray]) -> float:
        """The share of last tokens that it predicts, in per cent, over batches of one size."""
        right = [np.mean(self.predict(tokens) == tokens[:, -1]) for tokens in batches]
        return 100 * float(np.mean(right))

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def train_on_sequences(
    config: ModelConfig,
    batches: Iterator[np.ndarray],
    steps: int,
    seed: int,
    clip_norm: float | None = 1.0,
    rate: float = RATE,
    prepare: Callable[[Any], Any] = lambda variables: variables,
) -> Trained:
    """Train a stack to predict the last token of each sequence.

    Args:
        config: The model.
        batches: Token ids [rows, T] of each update.
        steps: Updates.
        seed: Of the parameters.
        clip_norm: Largest norm of a gradient; None does not clip.
        rate: Learning rate of Adam.
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

    # Adam with the constants that are usual, at a constant rate.
    adam = OptimizerConfig(beta1=0.9, beta2=0.999, epsilon=1e-8, clip_norm=clip_norm)
    optimizer = make_optimizer(adam, lambda step: rate)
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
    likeliest = jax.jit(lambda params, tokens: jnp.argmax(last_logits(params, tokens)[:, 0], -1))

    def predict(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(likeliest(state.params, tokens))

    return Trained(state.params, predict, max(map(float, norms)), int(state.skipped))
