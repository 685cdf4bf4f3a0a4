"""What training carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["TrainState", "create_state"]


class TrainState(NamedTuple):
    """A pytree; `step` counts attempted updates, skipped ones included (int32, 0 at first).

    The randomness of a step is a function of the seed and `step`, so no key is stored.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: Any
    """Moving average of the parameters, or None."""
    skipped: jax.Array
    """Updates left out because the gradient was not finite."""
    skipped_in_a_row: jax.Array

    @property
    def evaluation_params(self):
        """What to translate and evaluate with: the moving average where one is kept."""
        return self.params if self.ema is None else self.ema


def create_state(params, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step.

    >>> create_state({"w": jnp.zeros(2)}, optax.sgd(0.1), ema=False).step
    Array(0, dtype=int32)
    """

    def zero():
        return jnp.zeros((), jnp.int32)

    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(zero(), params, optimizer.init(params), average, zero(), zero())
