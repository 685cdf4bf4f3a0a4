"""The learning rate: that of section 5.3, and those of fine-tuning."""

import jax.numpy as jnp
import optax

from transformer_jax.config import OptimizerConfig

__all__ = ["make_schedule", "warmup_schedule"]


def make_schedule(config: OptimizerConfig, d_model: int) -> optax.Schedule:
    """Make the learning rate schedule of a run; the optimizer, the log and the pictures use it.

    A schedule with an end takes the end from a field of `OptimizerConfig` of its own:
    `TrainConfig.steps` decides no numbers, so that a run can be trained further.

    Args:
        config: lr_factor or peak_learning_rate, warmup_steps, and what follows them.
        d_model: D.

    Returns:
        schedule(count) -> learning rate, float32; count is that of the updates before.

    >>> tuning = OptimizerConfig(peak_learning_rate=1e-4, warmup_steps=100, schedule="constant")
    >>> schedule = make_schedule(tuning, d_model=512)
    >>> print(f"{schedule(0):.3g} {schedule(99):.3g} {schedule(9999):.3g}")
    1e-06 0.0001 0.0001
    """
    factor, steps = config.lr_factor, config.warmup_steps
    if config.peak_learning_rate is not None:
        factor = config.peak_learning_rate * (d_model * steps) ** 0.5
    schedule = warmup_schedule(d_model, steps, factor)
    if config.schedule == "constant":
        return lambda count: schedule(jnp.minimum(count, steps - 1))
    return schedule


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
