"""A model around another, whose variables it shares, with a state for each hypothesis."""

from typing import Any, NamedTuple

import jax
from flax import linen as nn

from transformer_jax.data.vocabulary import EOS_ID, PAD_ID, SPECIAL, Vocabulary
from transformer_jax.data.vocabulary_protocol import SPACE_SIGN
from transformer_jax.models.dimensions import Module
from transformer_jax.parsing.constraint import Grammar, make_grammar

__all__ = ["Wrapper", "WrapperCache", "find_word_starts", "grammar_of"]


class WrapperCache(NamedTuple):
    """The cache of a model without its history, which moves with a hypothesis as the state does.

    Attributes:
        inner: That cache.
        history: The model's history, and the state of each of N rows.
        words: [B, S], what is kept for each token of a source, if anything is.
    """

    inner: Any
    history: tuple[Any, Any]
    words: jax.Array | None = None

    @classmethod
    def of(cls, cache: Any, state: Any, words: jax.Array | None = None) -> "WrapperCache":
        """Put a model's cache and a state together."""
        return cls(cache._replace(history=()), (cache.history, state), words)

    @property
    def of_model(self) -> Any:
        """The model's cache."""
        return self.inner._replace(history=self.history[0])

    @property
    def state(self) -> Any:
        """The state of each row."""
        return self.history[1]


class Wrapper(Module):
    """What does nothing but what the model does. A subclass has the model as `wrapped`, under a
    name of its own, since names in a shared scope differ."""

    @property
    def wrapped(self) -> Any:
        """The model."""
        raise NotImplementedError

    def setup(self):
        nn.share_scope(self, self.wrapped)

    @property
    def config(self):
        """The model's configuration."""
        return self.wrapped.config

    def encode(self, source, rows=None):
        return self.wrapped.encode(source, rows)

    def project(self, features):
        return self.wrapped.project(features)

    def places_taken(self, cache):
        return self.wrapped.places_taken(cache.of_model)

    def resize_cache(self, cache, source_length, places):
        inner = self.wrapped.resize_cache(cache.of_model, source_length, places)
        return WrapperCache.of(inner, cache.state, cache.words)


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
