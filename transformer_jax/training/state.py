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
    consecutive_skips: jax.Array
    collections: dict[str, Any]
    """What the model keeps beside parameters, as running statistics; never averaged."""

    @property
    def evaluation_variables(self):
        """What to predict and evaluate with: the moving average where one is kept, and the newest
        collections."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def create_state(
    params,
    optimizer: optax.GradientTransformation,
    ema: bool,
    collections: dict[str, Any] | None = None,
) -> TrainState:
    """The state before the first step.

    >>> create_state({"w": jnp.zeros(2)}, optax.sgd(0.1), ema=False).step
    Array(0, dtype=int32)
    """

    def zero():
        return jnp.zeros((), jnp.int32)

    average = jax.tree.map(jnp.copy, params) if ema else None
    opt_state = optimizer.init(params)
    return TrainState(zero(), params, opt_state, average, zero(), zero(), collections or {})
