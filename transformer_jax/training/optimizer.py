"""Adam as the paper sets it (section 5.3), through optax."""

from collections.abc import Callable

import optax

from transformer_jax.config import OptimizerConfig

__all__ = ["MakeOptimizer", "make_optimizer"]

MakeOptimizer = Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Make Adam under a schedule, after optional clipping; moments are float32.

    Args:
        config: beta1, beta2, epsilon and clip_norm.
        schedule: Step, from 0 -> learning rate.

    The first update of Adam moves every entry by the learning rate, here 512^-0.5 * 4000^-1.5:

    >>> import jax.numpy as jnp
    >>> from transformer_jax.training.schedule import make_schedule
    >>> optimizer = make_optimizer(OptimizerConfig(), make_schedule(OptimizerConfig(), d_model=512))
    >>> updates, _ = optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)))
    >>> f"{updates[0]:.3e}"
    '-1.747e-07'
    """
    adam = optax.adam(schedule, b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    if config.clip_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
