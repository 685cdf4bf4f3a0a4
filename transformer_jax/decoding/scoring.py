"""Forced decoding: how likely a model finds given sequences."""

from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.decoding.rows import Generated, Step, extend_rows
from transformer_jax.functional.arguments import check_axes, check_integer

__all__ = ["force"]


def force(
    step: Step, cache: Any, targets: jax.Array, *, start_id: int = 0, eos_id: int = 1
) -> Generated:
    """Log-probabilities of `targets` [N, T], each ending in EOS and then padded with 0.

    The last token of a target is scored as EOS, whatever it is. What is no token, a negative id
    too, gives NaN. TypeError for ids that are no integers, ValueError for other axes.

    >>> step = lambda cache, tokens, parents: (cache, jnp.zeros((1, 4)))
    >>> force(step, None, jnp.array([[3, 1, 0]])).log_probs.round(3)
    Array([[-1.386, -1.386,  0.   ]], dtype=float32)
    """
    check_integer("targets", targets)
    check_axes("targets", targets, "N T")
    lengths = jnp.sum(targets != 0, axis=1)
    return extend_rows(
        step,
        cache,
        lambda log_probs, position: targets[:, position],
        limits=lengths,
        max_length=targets.shape[1],
        start_id=start_id,
        eos_id=eos_id,
    )
