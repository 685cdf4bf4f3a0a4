"""A search in its parts, which run in one loop, or with sentences that come and go."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["SearchProgram", "resize_last_axis"]


class SearchProgram(NamedTuple):
    """A search over a step function, in its parts.

    Its state is a NamedTuple. Field `cache` is the step function's, `position` counts the tokens so
    far; this and every other array of the state has a row for each sentence, or as many for each.

    Attributes:
        start: cache -> the state before the first step.
        extend: state -> the state with one token more of each sentence; one that is finished stays
            as it is.
        is_unfinished: state -> boolean, a value for each sentence or row.
        result: state -> what was found.
        resize: state -> the state with room for as many tokens as this search may write.
    """

    start: Callable[[Any], Any]
    extend: Callable[[Any], Any]
    is_unfinished: Callable[[Any], jax.Array]
    result: Callable[[Any], Any]
    resize: Callable[[Any], Any]

    def run(self, cache: Any) -> Any:
        """Run the search from its beginning to its end."""

        def is_running(state):
            return jnp.any(self.is_unfinished(state))

        return self.result(jax.lax.while_loop(is_running, self.extend, self.start(cache)))


def resize_last_axis(values: jax.Array, size: int) -> jax.Array:
    """Append zeros to the last axis, or cut it off, so that it has `size` entries."""
    values = values[..., :size]
    room = [(0, 0)] * (values.ndim - 1) + [(0, size - values.shape[-1])]
    return jnp.pad(values, room)
