"""The "Norm" of Figure 1 with its parameters: over a position's features, or over the batch."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.functional.normalization import (
    batch_norm,
    batch_statistics,
    layer_norm,
    running_statistics,
)
from transformer_jax.functional.rows import row_axes
from transformer_jax.models.dimensions import FLOAT32, Module, name_axes

__all__ = ["BatchNorm", "LayerNorm", "make_norm"]


class LayerNorm(Module):
    """Gain and bias around `functional.layer_norm`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, counted=None):
        """Normalise every position of x [..., D] by itself; `counted` has no effect."""
        gain = self.param("gain", name_axes(nn.initializers.ones, "D"), x.shape[-1:], FLOAT32)
        bias = self.param("bias", name_axes(nn.initializers.zeros, "D"), x.shape[-1:], FLOAT32)
        return layer_norm(x, gain, bias, self.config.norm_epsilon)


class BatchNorm(Module):
    """Gain, bias and running statistics around `functional.batch_norm`.

    A batch is normalised by its own statistics, over all devices that share it, exactly when the
    collection "batch_statistics" is mutable, which is then updated; otherwise the running
    statistics are used.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x, counted=None):
        """Normalise x [B, T, D] over the positions that `counted` [B, T] marks as no padding."""
        width = x.shape[-1:]
        gain = self.param("gain", name_axes(nn.initializers.ones, "D"), width, FLOAT32)
        bias = self.param("bias", name_axes(nn.initializers.zeros, "D"), width, FLOAT32)
        running = [
            self.variable("batch_statistics", name, make, width, FLOAT32)
            for name, make in (("mean", jnp.zeros), ("variance", jnp.ones))
        ]
        used = running[0].value, running[1].value
        if self.is_mutable_collection("batch_statistics") and not self.is_initializing():
            found = batch_statistics(x, counted, row_axes())
            for variable, value in zip(running, running_statistics(used, found)):
                variable.value = jax.lax.stop_gradient(value)
            used = found
        return batch_norm(x, *used, gain, bias, self.config.norm_epsilon)


def make_norm(config: ModelConfig) -> LayerNorm | BatchNorm:
    """Make the module that `config.normalization` names."""
    return LayerNorm(config) if config.normalization == "layer" else BatchNorm(config)
