"""Search steps made from a Transformer: its key-value cache behind the step contract."""

from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.decoding.generate import Step
from transformer_jax.models.transformer import DecoderCache, Transformer

__all__ = ["forbid", "transformer_step"]


def transformer_step(
    model: Transformer, params: Any, source: jax.Array, beams: int, max_length: int
) -> tuple[Step, DecoderCache]:
    """(step, cache) for source [B, S]; the cache has B * beams rows and max_length positions.

    >>> from transformer_jax import presets
    >>> model, source = Transformer(presets.tiny(vocab_size=50)), jnp.ones((2, 5), jnp.int32)
    >>> params = jax.jit(model.init)(jax.random.key(0), source, source)["params"]
    >>> step, cache = transformer_step(model, params, source, beams=3, max_length=4)
    >>> step(cache, jnp.zeros(6, jnp.int32), None)[1].shape
    (6, 50)
    """
    variables = {"params": params}

    def step(cache, tokens, parents):
        if parents is not None:
            history = jax.tree.map(lambda rows: rows[parents], cache.history)
            cache = cache._replace(history=history)
        return model.apply(variables, cache, tokens, method="decode_step")

    cache: Any = model.apply(variables, source, beams, max_length, method="start_cache")
    return step, cache


def forbid(step: Step, tokens: tuple[int, ...]) -> Step:
    """A step that never offers `tokens`.

    >>> step = forbid(lambda cache, tokens, parents: (cache, jnp.zeros((1, 3))), (0, 2))
    >>> step(None, jnp.array([0]), None)[1]
    Array([[-inf,   0., -inf]], dtype=float32)
    """

    def restricted(cache, last, parents):
        cache, logits = step(cache, last, parents)
        banned = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(tokens))
        return cache, jnp.where(banned[None], -jnp.inf, logits)

    return restricted
