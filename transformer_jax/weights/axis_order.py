"""The order of the model's axis D, which is free: positions decide what stands where."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.models.dimensions import axes_of, boxed_init
from transformer_jax.models.families import build_model

__all__ = ["concatenate_positions", "interleave_positions"]


def concatenate_positions(params: Any, config: ModelConfig) -> Any:
    """Move the features of "paper" positions to where "concatenated" ones have them.

    Sines and cosines alternate in the one and follow each other in the other, with the same
    frequencies. A model whose parameters are moved along with them computes the same, but for the
    order in which it adds.

    Args:
        params: The tree of parameters.
        config: The model; its `position_encoding` is not read.
    """
    return _take(params, config, _alternating(config.d_model))


def interleave_positions(params: Any, config: ModelConfig) -> Any:
    """Undo `concatenate_positions`, bit for bit.

    Args:
        params: The tree of parameters.
        config: The model.
    """
    return _take(params, config, np.argsort(_alternating(config.d_model)))


def _alternating(d_model: int) -> np.ndarray:
    """Even places, then odd ones.

    >>> _alternating(6).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    return np.concatenate([np.arange(0, d_model, 2), np.arange(1, d_model, 2)])


def _take(params: Any, config: ModelConfig, order: np.ndarray) -> Any:
    """Every axis that is called D in this order."""
    tokens = jnp.ones((1, 1), jnp.int32)
    axes = axes_of(boxed_init(build_model(config), tokens, tokens))

    def taken(array, letters):
        found = np.asarray(array)
        for axis, letter in enumerate(letters):
            if letter == "D":
                found = np.take(found, order, axis)
        return found

    return jax.tree.map(taken, params, axes)
