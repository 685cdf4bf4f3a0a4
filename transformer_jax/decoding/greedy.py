"""Greedy search: the likeliest token at each step."""

from typing import Any

import jax

from transformer_jax.decoding.rows import Allowed, DecodeStep, Generated, rows_program
from transformer_jax.decoding.top import top_values

__all__ = ["choose_likeliest", "greedy_search"]


def choose_likeliest(log_probs: jax.Array, position: jax.Array) -> jax.Array:
    """Choose the likeliest of log_probs [N, V] in each row, of equal ones the smallest id: [N]."""
    return top_values(log_probs, 1)[1][:, 0]


def greedy_search(
    step: DecodeStep,
    cache: Any,
    *,
    limits: jax.Array,
    max_length: int,
    start_id: int = 0,
    eos_id: int = 1,
    allowed: Allowed | None = None,
) -> Generated:
    """Choose the likeliest token at each step; ties go to the smaller token id.

    Args:
        step: step(cache, tokens [N], None) -> (cache, logits [N, V]).
        cache: What the first step takes.
        limits: Most tokens of each row [N], EOS included.
        max_length: Most tokens of any row, T; a static size.
        start_id: The token before the first one.
        eos_id: The token that ends a row.
        allowed: allowed(cache) -> boolean [N, V] or [1, V], the tokens that may come next.

    Returns:
        The tokens of each row with their log-probabilities.

    >>> import jax.numpy as jnp
    >>> table = jnp.array([[0.0, 1.0, 5.0], [0.0, 0.0, 0.0], [0.0, 9.0, 1.0]])
    >>> step = lambda cache, tokens, parents: (cache, table[tokens])
    >>> greedy_search(step, None, limits=jnp.array([8]), max_length=8).tokens[0, :3]
    Array([2, 1, 0], dtype=int32)
    """
    return rows_program(
        step,
        choose_likeliest,
        limits=limits,
        max_length=max_length,
        start_id=start_id,
        eos_id=eos_id,
        allowed=allowed,
    ).run(cache)
