"""A model whose target is placed where its source is read: `target_positions="words"`.

A symbol has the position of the first piece of the word that comes next, so that attention finds
that word by its position. Otherwise a decoder would have to count the words before.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.data.vocabulary import PAD_ID, Vocabularies
from transformer_jax.models.embedding import shift_right
from transformer_jax.parsing.constrained import find_word_starts, grammar_of

__all__ = ["PlacedModel", "place_model", "places_of_words"]


class _Cache(NamedTuple):
    """The model's cache without its history, which moves with a hypothesis as `read` does.

    Attributes:
        inner: That cache.
        begun: [B, S], words of each source that have begun, up to each token.
        end: [B], the last token of each source.
        history: The model's history, and the words [N] that have been written.
    """

    inner: Any
    begun: jax.Array
    end: jax.Array
    history: tuple[Any, jax.Array]


class PlacedModel(nn.Module):
    """A Transformer whose target's positions are those of the source's words; its variables are the
    Transformer's.

    Attributes:
        transformer: The Transformer, under another name than that of a model around this one.
        is_word: For each symbol of the target, whether it is a word with its tag.
        word_starts: For each token of the source, whether a word begins with it.
    """

    transformer: nn.Module
    is_word: tuple[bool, ...]
    word_starts: tuple[bool, ...]

    def setup(self):
        nn.share_scope(self, self.transformer)

    @property
    def config(self):
        """The model's configuration."""
        return self.transformer.config  # type: ignore[attr-defined]

    def __call__(self, source, target, rows=None):
        return self.project(self.features(source, target, rows))

    def features(self, source, target, rows=None):
        begun, end = self._words_of(source)
        shifted = shift_right(target, self.config.start_id)
        written = jnp.cumsum(jnp.asarray(self.is_word)[shifted], axis=1, dtype=jnp.int32)
        places = places_of_words(begun, end, written)
        return self.transformer.features(source, target, rows, places=places)

    def project(self, features):
        return self.transformer.project(features)

    def init_cache(self, source, rows_per_sentence, places):
        inner = self.transformer.init_cache(source, rows_per_sentence, places)
        written = jnp.zeros(len(source) * rows_per_sentence, jnp.int32)
        begun, end = self._words_of(source)
        return _Cache(inner._replace(history=()), begun, end, (inner.history, written))

    def decode_step(self, cache, tokens):
        history, written = cache.history
        written += jnp.asarray(self.is_word)[tokens]
        at = places_of_words(cache.begun, cache.end, written.reshape(len(cache.end), -1))
        inner, features = self.transformer.decode_step(
            cache.inner._replace(history=history), tokens, at.reshape(-1)
        )
        history, inner = inner.history, inner._replace(history=())
        return cache._replace(inner=inner, history=(history, written)), features

    def places_taken(self, cache):
        return self.transformer.places_taken(cache.inner._replace(history=cache.history[0]))

    def resize_cache(self, cache, source_length, places):
        history, written = cache.history
        inner = self.transformer.resize_cache(
            cache.inner._replace(history=history), source_length, places
        )
        begun = cache.begun[:, :source_length]
        room = ((0, 0), (0, source_length - begun.shape[1]))
        return cache._replace(
            inner=inner._replace(history=()),
            begun=jnp.pad(begun, room, mode="edge"),
            history=(inner.history, written),
        )

    def _words_of(self, source):
        begun = jnp.cumsum(jnp.asarray(self.word_starts)[source], axis=1, dtype=jnp.int32)
        end = jnp.sum(source != PAD_ID, axis=1, dtype=jnp.int32) - 1
        return begun, jnp.maximum(end, 0)


def places_of_words(begun: jax.Array, end: jax.Array, words: jax.Array) -> jax.Array:
    """Find the first token of a word of each source.

    Args:
        begun: [B, S], words that have begun, up to each token.
        end: [B], the last token of each source, which is what follows the last word.
        words: [B, T], numbers of words, from 0.

    Returns:
        [B, T] int32.

    >>> begun = jnp.array([[1, 1, 2, 3, 3]])  # the second word begins with the third token
    >>> places_of_words(begun, jnp.array([4]), jnp.array([[0, 1, 2, 3]]))
    Array([[0, 2, 3, 4]], dtype=int32)
    """
    found = jax.vmap(lambda row, of: jnp.searchsorted(row, of, side="right"))(begun, words)
    return jnp.minimum(found.astype(jnp.int32), end[:, None])


def place_model(model: nn.Module, vocabularies: Vocabularies, order: str) -> PlacedModel:
    """Place the target of a model by the words of its source.

    Args:
        model: A Transformer.
        vocabularies: Those of source and target.
        order: One of `ORDERS`.
    """
    is_word = grammar_of(vocabularies.target, order).is_word
    return PlacedModel(model, is_word, find_word_starts(vocabularies.source))
