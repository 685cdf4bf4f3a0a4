"""The state that training carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["TrainState", "create_state"]


class TrainState(NamedTuple):
    """The state of training, a pytree.

    The randomness of a step is a function of the seed and `step`, so no key is stored.

    Attributes:
        step: Attempted updates, skipped ones included (int32, 0 at first).
        params: The parameters.
        opt_state: State of the optax transformation.
        ema: Moving average of the parameters, or None.
        skipped: Updates left out because the gradient was not finite.
        consecutive_skips: Those in a row up to now.
        collections: What the model keeps beside parameters, as running statistics; never averaged.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: Any
    skipped: jax.Array
    consecutive_skips: jax.Array
    collections: dict[str, Any]

    @property
    def evaluation_variables(self):
        """The variables to predict and evaluate with.

        They are the moving average of the parameters where there is one, else the parameters, and
        the newest collections.
        """
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def create_state(
    params,
    optimizer: optax.GradientTransformation,
    ema: bool,
    collections: dict[str, Any] | None = None,
) -> TrainState:
    """Create the state before the first step.

    Args:
        params: Initial parameters.
        optimizer: The optax transformation.
        ema: Whether to keep a moving average of the parameters.
        collections: Initial collections.

    >>> create_state({"w": jnp.zeros(2)}, optax.sgd(0.1), ema=False).step
    Array(0, dtype=int32)
    """

    def zero():
        return jnp.zeros((), jnp.int32)

    average = jax.tree.map(jnp.copy, params) if ema else None
    opt_state = optimizer.init(params)
    return TrainState(zero(), params, opt_state, average, zero(), zero(), collections or {})
