"""The loop that greedy search and sampling share: one token per row and step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.decoding.program import SearchProgram, resize_last_axis
from transformer_jax.functional.arguments import check_axes, check_integer, check_mask
from transformer_jax.functional.losses import at_class

__all__ = [
    "Allowed",
    "DecodeStep",
    "Generated",
    "Project",
    "check_limits",
    "log_probs_of",
    "rows_program",
]

Allowed = Callable[[Any], jax.Array]
DecodeStep = Callable[[Any, jax.Array, jax.Array | None], tuple[Any, jax.Array]]
Project = Callable[[jax.Array], jax.Array]


class Generated(NamedTuple):
    """What was written in N rows.

    Attributes:
        tokens: [N, T] int32, 0 after EOS.
        lengths: [N], EOS included.
        log_probs: [N, T], of each token.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array


def log_probs_of(logits: jax.Array, rows: int, mask: jax.Array | None, eos_id: int) -> jax.Array:
    """Turn a step's logits into log-probabilities.

    They are normalised over all V tokens before those that are not allowed are dropped.

    Args:
        logits: [N, V].
        rows: N.
        mask: Boolean [N, V] or [1, V], the tokens that may come next; None allows all.
        eos_id: The token that ends a row.

    Returns:
        [N, V] in float32, -inf where a token is not allowed.

    Raises:
        ValueError: The logits have another number of rows or no token `eos_id`, or the mask does
            not fit them.
        TypeError: The mask is not boolean.

    >>> mask = jnp.array([[False, True, True, False]])
    >>> log_probs_of(jnp.zeros((1, 4)), 1, mask, 1).round(3)
    Array([[  -inf, -1.386, -1.386,   -inf]], dtype=float32)
    """
    if logits.ndim != 2 or logits.shape[0] != rows:
        raise ValueError(f"the step's logits have shape {logits.shape}, not ({rows}, V)")
    if not 0 <= eos_id < logits.shape[1]:
        raise ValueError(f"eos_id {eos_id} is not one of the step's {logits.shape[1]} tokens")
    logits = logits.astype(jnp.float32)
    # XLA passes over V once less than for `jax.nn.log_softmax`, which it writes out twice.
    log_probs = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
    if mask is not None:
        check_mask(mask, log_probs.shape, true="may be chosen")
        log_probs = jnp.where(mask, log_probs, -jnp.inf)
    return log_probs


def check_limits(limits: jax.Array, max_length: int) -> None:
    """Raise ValueError unless there is one limit per row and room for a token.

    Raises TypeError unless the limits are integers.
    """
    check_axes("limits", limits, "N")
    check_integer("limits", limits)
    if max_length < 1:
        raise ValueError(f"max_length {max_length} has no room for a token: it must be positive")


class _Rows(NamedTuple):
    """N rows; position, last_tokens and unfinished are [N]."""

    position: jax.Array
    cache: Any
    last_tokens: jax.Array
    unfinished: jax.Array
    out: Generated


def rows_program(
    step: DecodeStep,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    limits: jax.Array,
    max_length: int,
    start_id: int,
    eos_id: int,
    allowed: Allowed | None = None,
) -> SearchProgram:
    """Make the search that extends N rows token by token until each has EOS.

    Args:
        step: The step function.
        choose: choose(log_probs [N, V], position [N]) -> the next tokens [N].
        limits: Most tokens of each row [N], EOS included: row i ends with EOS there.
        max_length: Most tokens of any row, T; a static size.
        start_id: The token before the first one.
        eos_id: The token that ends a row.
        allowed: allowed(cache) -> the mask of `log_probs_of`; None allows all.

    Returns:
        The search, whose result is the tokens of each row with their log-probabilities.

    >>> step = lambda cache, tokens, parents: (cache, jnp.zeros((1, 3)))
    >>> choose = lambda log_probs, position: jnp.array([2])
    >>> options = {"limits": jnp.array([3]), "max_length": 4, "start_id": 0, "eos_id": 1}
    >>> rows_program(step, choose, **options).run(None).tokens
    Array([[2, 2, 1, 0]], dtype=int32)
    """
    check_limits(limits, max_length)
    limits = jnp.minimum(limits, max_length)
    rows = limits.shape[0]

    def extend(state):
        position, cache, last, unfinished, out = state
        cache, logits = step(cache, last, None)
        mask = None if allowed is None else allowed(cache)
        log_probs = log_probs_of(logits, rows, mask, eos_id)
        tokens = jnp.where(position + 1 == limits, eos_id, choose(log_probs, position))
        chosen = at_class(log_probs, tokens)
        tokens = jnp.where(unfinished, tokens, 0).astype(jnp.int32)
        is_newest = unfinished[:, None] & (jnp.arange(max_length)[None] == position[:, None])
        out = Generated(
            jnp.where(is_newest, tokens[:, None], out.tokens),
            out.lengths + unfinished.astype(jnp.int32),
            jnp.where(is_newest, chosen[:, None], out.log_probs),
        )
        return _Rows(position + 1, cache, tokens, unfinished & (tokens != eos_id), out)

    def start(cache):
        empty = Generated(
            jnp.zeros((rows, max_length), jnp.int32),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros((rows, max_length), jnp.float32),
        )
        first = jnp.full(rows, start_id, jnp.int32)
        return _Rows(jnp.zeros(rows, jnp.int32), cache, first, limits > 0, empty)

    def resize(state):
        tokens, lengths, log_probs = state.out
        out = Generated(
            resize_last_axis(tokens, max_length), lengths, resize_last_axis(log_probs, max_length)
        )
        return state._replace(out=out)

    return SearchProgram(
        start, extend, lambda state: state.unfinished, lambda state: state.out, resize
    )
