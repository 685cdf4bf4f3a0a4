"""A model whose searches can write nothing but a tree over the words of its source."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.data.vocabulary import EOS_ID, PAD_ID, SPECIAL, Vocabularies, Vocabulary
from transformer_jax.data.vocabulary_protocol import SPACE_SIGN
from transformer_jax.models.families import family_of
from transformer_jax.parsing.constraint import (
    Grammar,
    GrammarState,
    advance,
    allowed_symbols,
    make_grammar,
    start_state,
)

__all__ = ["ConstrainedModel", "constrain_model", "find_word_starts", "grammar_of"]


class _Cache(NamedTuple):
    """The model's cache without its history, which moves with a hypothesis as its state does."""

    inner: Any
    history: tuple[Any, GrammarState]

    @classmethod
    def of(cls, cache: Any, state: GrammarState) -> "_Cache":
        return cls(cache._replace(history=()), (cache.history, state))

    @property
    def of_model(self) -> Any:
        return self.inner._replace(history=self.history[0])


class ConstrainedModel(nn.Module):
    """A model with the grammar of its target as `allowed`; its variables are the model's.

    Attributes:
        model: A model of a family.
        grammar: What each symbol of the target does.
        word_starts: For each token of the source, whether a word begins with it.
        extra_length: Symbols that may be written beyond the tokens of the source.
    """

    model: nn.Module
    grammar: Grammar
    word_starts: tuple[bool, ...]
    extra_length: int

    def setup(self):
        nn.share_scope(self, self.model)

    @property
    def config(self):
        """The model's configuration."""
        return self.model.config  # type: ignore[attr-defined]

    def init_cache(self, source, rows_per_sentence, places):
        inner = self.model.init_cache(source, rows_per_sentence, places)
        words = jnp.sum(jnp.asarray(self.word_starts)[source], axis=1)
        # Rows of a batch that hold no sentence have a word, so that one symbol is always allowed.
        words = jnp.maximum(words, 1).astype(jnp.int32)
        tokens = jnp.sum((source != PAD_ID) & (source != EOS_ID), axis=1).astype(jnp.int32)
        # As searches limit a target.
        limits = tokens + self.extra_length
        limits = jnp.minimum(limits, family_of(self.config).max_length(self.config) or limits)
        start = start_state(words, limits)
        start = jax.tree.map(lambda rows: jnp.repeat(rows, rows_per_sentence, axis=0), start)
        return _Cache.of(inner, start)

    def decode_step(self, cache, tokens):
        inner, features = self.model.decode_step(cache.of_model, tokens)
        state = advance(self.grammar, cache.history[1], tokens)
        return _Cache.of(inner, state), features

    def allowed(self, cache):
        return allowed_symbols(self.grammar, cache.history[1])

    def project(self, features):
        return self.model.project(features)

    def places_taken(self, cache):
        return self.model.places_taken(cache.of_model)

    def resize_cache(self, cache, source_length, places):
        inner = self.model.resize_cache(cache.of_model, source_length, places)
        return _Cache.of(inner, cache.history[1])


def constrain_model(
    model: nn.Module, vocabularies: Vocabularies, order: str, extra_length: int
) -> ConstrainedModel:
    """Make the model that writes trees alone.

    Args:
        model: A model of a family.
        vocabularies: Those of source and target.
        order: One of `ORDERS`.
        extra_length: Most symbols beyond the tokens of a source, as the search has it.

    Raises:
        UserError: There is no tag among the target's symbols.
    """
    grammar = grammar_of(vocabularies.target, order)
    return ConstrainedModel(model, grammar, find_word_starts(vocabularies.source), extra_length)


def grammar_of(target: Vocabulary, order: str) -> Grammar:
    """Make the grammar of a vocabulary of symbols.

    Args:
        target: The vocabulary.
        order: One of `ORDERS`.

    Raises:
        UserError: There is no tag among the symbols.
    """
    symbols = target.tokens(range(len(target)))
    return make_grammar(symbols[len(SPECIAL) :], order, len(SPECIAL), EOS_ID)


def find_word_starts(vocabulary: Vocabulary) -> tuple[bool, ...]:
    """Tell for each token of a source's vocabulary whether a word begins with it."""
    tokens = vocabulary.tokens(range(len(vocabulary)))
    if vocabulary.is_tokenized:
        specials = (PAD_ID, EOS_ID)
        return tuple(number not in specials for number in range(len(tokens)))
    return tuple(token.startswith(SPACE_SIGN) for token in tokens)
