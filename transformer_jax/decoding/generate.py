"""The loop that greedy search, sampling and forced scoring share: one token a row a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Generated", "Step", "generate"]

Step = Callable[[Any, jax.Array, jax.Array | None], tuple[Any, jax.Array]]


class Generated(NamedTuple):
    """tokens [N, T] int32, 0 after EOS; lengths [N] with EOS; log_probs [N, T]; N rows."""

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array


def generate(
    step: Step,
    cache: Any,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    limits: jax.Array,
    max_length: int,
    start_id: int,
    eos_id: int,
) -> Generated:
    """Extend N rows until each has EOS; row i ends with EOS at length limits[i] at the latest.

    `choose(logits [N, V], position)` names the next tokens [N]. No row exceeds `max_length` T.

    >>> step = lambda cache, tokens, parents: (cache, jnp.zeros((1, 3)))
    >>> choose = lambda logits, position: jnp.array([2])
    >>> options = {"limits": jnp.array([3]), "max_length": 4, "start_id": 0, "eos_id": 1}
    >>> generate(step, None, choose, **options).tokens
    Array([[2, 2, 1, 0]], dtype=int32)
    """
    limits = jnp.minimum(limits, max_length)
    rows = limits.shape[0]

    def running(carry):
        position, _, _, open_rows, _ = carry
        return (position < max_length) & jnp.any(open_rows)

    def extend(carry):
        position, cache, last, open_rows, out = carry
        cache, logits = step(cache, last, None)
        logits = logits.astype(jnp.float32)
        tokens = jnp.where(position + 1 == limits, eos_id, choose(logits, position))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, None], axis=1)[:, 0]
        tokens = jnp.where(open_rows, tokens, 0).astype(jnp.int32)
        out = Generated(
            out.tokens.at[:, position].set(tokens),
            out.lengths + open_rows.astype(jnp.int32),
            out.log_probs.at[:, position].set(jnp.where(open_rows, chosen, 0.0)),
        )
        return position + 1, cache, tokens, open_rows & (tokens != eos_id), out

    empty = Generated(
        jnp.zeros((rows, max_length), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((rows, max_length), jnp.float32),
    )
    start = jnp.full(rows, start_id, jnp.int32)
    carry = (jnp.zeros((), jnp.int32), cache, start, limits > 0, empty)
    return jax.lax.while_loop(running, extend, carry)[-1]
