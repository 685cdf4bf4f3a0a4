"""Search steps made from a model of any family."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.decoding.rows import Allowed, DecodeStep, Project

__all__ = ["exclude_tokens", "joined", "make_search_step", "search_step"]


def make_search_step(
    model: nn.Module, variables: Any, source: jax.Array, beams: int, max_length: int
) -> tuple[DecodeStep, Any]:
    """Make the step function of a search from a model.

    Args:
        model: A Flax module with `init_cache`, `decode_step` and `project` (`models.families` says
            their shapes).
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
    # Room for every hypothesis of every step.
    cache: Any = model.apply(variables, source, beams, beams * max_length, method="init_cache")
    return joined(*search_step(model, variables)), cache


def search_step(model: nn.Module, variables: Any) -> tuple[DecodeStep, Project]:
    """Make the step of a search in two halves.

    Args:
        model: A Flax module with `decode_step` and `project`.
        variables: Its parameters and collections.

    Returns:
        step(cache, tokens, parents) -> (cache, features [N, 1, D]), and what makes logits [N, V] of
        features.
    """

    def step(cache, tokens, parents):
        if parents is not None:
            history = jax.tree.map(lambda rows: rows[parents], cache.history)
            cache = cache._replace(history=history)
        return model.apply(variables, cache, tokens, method="decode_step")

    def project(features):
        logits: Any = model.apply(variables, features, method="project")
        return logits[:, 0]

    return step, project


def joined(step: DecodeStep, project: Project) -> DecodeStep:
    """Make a step that gives logits of the two halves of `search_step`."""

    def step_to_logits(cache, tokens, parents):
        cache, features = step(cache, tokens, parents)
        return cache, project(features)

    return step_to_logits


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
