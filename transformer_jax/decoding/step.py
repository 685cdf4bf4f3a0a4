"""Search steps made from a model of any family."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.decoding.rows import Allowed, DecodeStep

__all__ = ["exclude_tokens", "make_search_step", "search_step"]


def make_search_step(
    model: nn.Module, variables: Any, source: jax.Array, beams: int, max_length: int
) -> tuple[DecodeStep, Any]:
    """Make the step function of a search from a model.

    Args:
        model: A Flax module with `init_cache` and `decode_step` (`models.families` says their
            shapes).
        variables: Its parameters and collections.
        source: Token ids [B, S].
        beams: Rows per sentence.
        max_length: Most tokens of a target.

    Returns:
        step(cache, tokens, parents) -> (cache, logits), and the cache for the first step, of B *
        beams rows.

    >>> from transformer_jax import Transformer, presets
    >>> model, source = Transformer(presets.tiny(vocab_size=50)), jnp.ones((2, 5), jnp.int32)
    >>> variables = jax.jit(model.init)(jax.random.key(0), source, source)
    >>> step, cache = make_search_step(model, variables, source, beams=3, max_length=4)
    >>> step(cache, jnp.zeros(6, jnp.int32), None)[1].shape
    (6, 50)
    """
    cache: Any = model.apply(variables, source, beams, max_length, method="init_cache")
    return search_step(model, variables), cache


def search_step(model: nn.Module, variables: Any) -> DecodeStep:
    """Make step(cache, tokens, parents) -> (cache, logits) of a model, as for `make_search_step`.

    Args:
        model: A Flax module with `decode_step`.
        variables: Its parameters and collections.
    """

    def step(cache, tokens, parents):
        if parents is not None:
            history = jax.tree.map(lambda rows: rows[parents], cache.history)
            cache = cache._replace(history=history)
        return model.apply(variables, cache, tokens, method="decode_step")

    return step


def exclude_tokens(tokens: tuple[int, ...], vocab_size: int) -> Allowed:
    """Allow every token but `tokens` at every step.

    Args:
        tokens: Ids that a search may not choose.
        vocab_size: V.

    Returns:
        allowed(cache) -> boolean [1, V].

    >>> exclude_tokens((0, 2), 4)(None)
    Array([[False,  True, False,  True]], dtype=bool)
    """
    mask = ~jnp.isin(jnp.arange(vocab_size), jnp.array(tokens))[None]
    return lambda cache: mask
