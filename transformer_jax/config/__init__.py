"""What a run is: four frozen dataclasses, checked when they are made. Imports no jax.

Identity fields (model, data, optimizer and TrainConfig.seed) decide the numbers of a run and may
not change when it is resumed; the other TrainConfig fields may.
"""

from transformer_jax.config.checks import ConfigError
from transformer_jax.config.data import DataConfig
from transformer_jax.config.model import ModelConfig
from transformer_jax.config.optimizer import OptimizerConfig
from transformer_jax.config.run import RunConfig
from transformer_jax.config.train import TrainConfig

__all__ = [
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "TrainConfig",
]
