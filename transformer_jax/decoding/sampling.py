"""Sampling with temperature, top-k and top-p."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.decoding.rows import Allowed, DecodeStep, Generated, rows_program
from transformer_jax.functional.keys import row_keys

__all__ = ["filter_logits", "make_sampler", "sample"]


def filter_logits(
    logits: Float[Array, "*N V"], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Float[Array, "*N V"]:
    """Divide logits by the temperature and set what top-k and top-p leave out to -inf.

    Top-p keeps the fewest likeliest tokens whose probabilities, after temperature and top-k, sum
    to at least `top_p` (Holtzman et al. 2020); the likeliest always stays. Equally likely tokens at
    the border of top-k all stay.

    Args:
        logits: [..., V].
        temperature: Positive; lower is closer to greedy search.
        top_k: Tokens to keep; 0 keeps all.
        top_p: Probability to keep, in (0, 1].

    Returns:
        [..., V] in float32.

    Raises:
        ValueError: A number is out of range.

    >>> [f"{x:.2f}" for x in filter_logits(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), top_p=0.6)[0]]
    ['-0.69', '-1.20', '-inf']
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature {temperature} must be positive and finite; 0 would be greedy search"
        )
    if top_k < 0:
        raise ValueError(f"top_k {top_k} is negative; 0 keeps every token")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p} is outside (0, 1]")
    logits = logits.astype(jnp.float32) / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        ranked = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
        before = jnp.cumsum(ranked, axis=-1) - ranked
        kept = jnp.take_along_axis(before < top_p, jnp.argsort(order, axis=-1), axis=-1)
        logits = jnp.where(kept, logits, -jnp.inf)
    return logits


def make_sampler(
    rngs: jax.Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Make the function that draws the next token of each row, for `rows_program`.

    Args:
        rngs: A key for each row [N].
        temperature: As in `filter_logits`.
        top_k: As in `filter_logits`.
        top_p: As in `filter_logits`.

    Returns:
        choose(log_probs [N, V], position [N]) -> tokens [N].
    """
    rngs = row_keys(rngs)

    def choose(log_probs, position):
        drawn = jax.vmap(jax.random.fold_in)(rngs, position)
        offered = filter_logits(log_probs, temperature, top_k, top_p)
        return jax.vmap(jax.random.categorical)(drawn, offered)

    return choose


def sample(
    step: DecodeStep,
    cache: Any,
    rngs: jax.Array,
    *,
    limits: jax.Array,
    max_length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    start_id: int = 0,
    eos_id: int = 1,
    allowed: Allowed | None = None,
) -> Generated:
    """Draw a sequence for each row.

    Args:
        step: step(cache, tokens [N], None) -> (cache, logits [N, V]).
        cache: What the first step takes.
        rngs: A key for each row [N], so that a row does not depend on the others.
        limits: Most tokens of each row [N], EOS included.
        max_length: Most tokens of any row, T; a static size.
        temperature: As in `filter_logits`.
        top_k: As in `filter_logits`.
        top_p: As in `filter_logits`.
        start_id: The token before the first one.
        eos_id: The token that ends a row.
        allowed: allowed(cache) -> boolean [N, V] or [1, V], the tokens that may come next.

    Returns:
        The tokens of each row. Their log-probabilities are the step's own, before temperature,
        top-k and top-p.

    >>> step = lambda cache, tokens, parents: (cache, jnp.array([[-9.0, -9.0, 9.0]]))
    >>> rngs = jax.random.split(jax.random.key(0), 1)
    >>> sample(step, None, rngs, limits=jnp.array([3]), max_length=3).tokens
    Array([[2, 2, 1]], dtype=int32)
    """
    return rows_program(
        step,
        make_sampler(rngs, temperature, top_k, top_p),
        limits=limits,
        max_length=max_length,
        start_id=start_id,
        eos_id=eos_id,
        allowed=allowed,
    ).run(cache)
