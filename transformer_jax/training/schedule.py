"""The learning rate of section 5.3."""

import jax.numpy as jnp
import optax

from transformer_jax.config import OptimizerConfig

__all__ = ["make_schedule", "warmup_schedule"]


def make_schedule(config: OptimizerConfig, d_model: int) -> optax.Schedule:
    """Make the learning rate schedule of a run; the optimizer, the log and the pictures use it.

    A schedule with an end takes the end from a field of `OptimizerConfig` of its own:
    `TrainConfig.steps` decides no numbers, so that a run can be trained further.
    """
    return warmup_schedule(d_model, config.warmup_steps, config.lr_factor)


def warmup_schedule(d_model: int, warmup_steps: int, lr_factor: float = 1.0) -> optax.Schedule:
    """Make lr_factor * d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5), equation 3.

    The paper counts steps from 1 and optax from 0: the argument of the schedule is step - 1.

    Args:
        d_model: D.
        warmup_steps: Steps of linear growth.
        lr_factor: Multiplies the schedule.

    Returns:
        schedule(count) -> learning rate, float32.

    >>> schedule = warmup_schedule(512, 4000)
    >>> print(f"{schedule(0):.3g} {schedule(3999):.3g} {schedule(15999):.3g}")
    1.75e-07 0.000699 0.000349
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return lr_factor * d_model**-0.5 * jnp.minimum(step**-0.5, step * warmup_steps**-1.5)

    return schedule
