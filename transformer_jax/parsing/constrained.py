"""A model whose searches can write nothing but a tree over the words of its source."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.data.vocabulary import EOS_ID, PAD_ID, Vocabularies
from transformer_jax.models.families import family_of
from transformer_jax.parsing.constraint import Grammar, advance, allowed_symbols, start_state
from transformer_jax.parsing.wrapper import Wrapper, WrapperCache, find_word_starts, grammar_of

__all__ = ["ConstrainedModel", "constrain_model"]


class ConstrainedModel(Wrapper):
    """A model with the grammar of its target as `allowed`; its variables are the model's.

    Attributes:
        model: A model of a family, or one around it.
        grammar: What each symbol of the target does.
        word_starts: For each token of the source, whether a word begins with it.
        extra_length: Symbols that may be written beyond the tokens of the source.
    """

    model: nn.Module
    grammar: Grammar
    word_starts: tuple[bool, ...]
    extra_length: int

    @property
    def wrapped(self) -> Any:
        return self.model

    def init_cache(self, source, rows_per_sentence, places):
        cache = self.wrapped.init_cache(source, rows_per_sentence, places)
        words = jnp.sum(jnp.asarray(self.word_starts)[source], axis=1)
        # Rows of a batch that hold no sentence have a word, so that one symbol is always allowed.
        words = jnp.maximum(words, 1).astype(jnp.int32)
        tokens = jnp.sum((source != PAD_ID) & (source != EOS_ID), axis=1).astype(jnp.int32)
        # As searches limit a target.
        limits = tokens + self.extra_length
        limits = jnp.minimum(limits, family_of(self.config).max_length(self.config) or limits)
        start = start_state(words, limits)
        start = jax.tree.map(lambda rows: jnp.repeat(rows, rows_per_sentence, axis=0), start)
        return WrapperCache.of(cache, start)

    def decode_step(self, cache, tokens):
        after, features = self.wrapped.decode_step(cache.of_model, tokens)
        return WrapperCache.of(after, advance(self.grammar, cache.state, tokens)), features

    def allowed(self, cache):
        return allowed_symbols(self.grammar, cache.state)


def constrain_model(
    model: nn.Module, vocabularies: Vocabularies, order: str, extra_length: int
) -> ConstrainedModel:
    """Make the model that writes trees alone.

    Args:
        model: A model of a family, or one around it.
        vocabularies: Those of source and target.
        order: One of `ORDERS`.
        extra_length: Most symbols beyond the tokens of a source, as the search has it.

    Raises:
        UserError: There is no tag among the target's symbols.
    """
    grammar = grammar_of(vocabularies.target, order)
    return ConstrainedModel(model, grammar, find_word_starts(vocabularies.source), extra_length)
