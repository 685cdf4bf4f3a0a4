"""A search in its parts, which run in one loop, or a few steps at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["SearchProgram"]


class SearchProgram(NamedTuple):
    """A search over a step function; its state is a NamedTuple with `position` and `cache`.

    Attributes:
        start: cache -> the state before the first step.
        extend: state -> the state with one token more.
        is_unfinished: state -> boolean, a value for each sentence or row.
        result: state -> what was found.
        max_length: Most tokens of any row.
    """

    start: Callable[[Any], Any]
    extend: Callable[[Any], Any]
    is_unfinished: Callable[[Any], jax.Array]
    result: Callable[[Any], Any]
    max_length: int

    def run_to(self, state: Any, position: Any) -> Any:
        """Extend a state until it is at a position, or every row is finished.

        Args:
            state: A state.
            position: At most max_length.
        """

        def is_running(state):
            return (state.position < position) & jnp.any(self.is_unfinished(state))

        return jax.lax.while_loop(is_running, self.extend, state)

    def run(self, cache: Any) -> Any:
        """Run the search from its beginning to its end."""
        return self.result(self.run_to(self.start(cache), self.max_length))
