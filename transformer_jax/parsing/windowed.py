"""A model that attends to its source around the word that comes next.

As a tree is written, every word of the sentence takes one symbol, so that the symbols written tell
which word comes next. Where attention must find it, a decoder learns for most of its training to
count words, and loses count in long sentences. After Ma, Liu, Tamura, Zhao and Sumita,
"Deterministic Attention for Sequence-to-Sequence Constituent Parsing" (AAAI 2017).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.data.vocabulary import EOS_ID, UNK_ID, Vocabularies
from transformer_jax.models.cache import resize_axis
from transformer_jax.models.embedding import shift_right
from transformer_jax.models.encoder import Masks
from transformer_jax.parsing.wrapper import Wrapper, WrapperCache, find_word_starts, grammar_of

__all__ = ["WindowedModel", "near_next_word", "window_model"]


class WindowedModel(Wrapper):
    """A Transformer whose decoder sees `cross_attention_radius` words on either side of the one
    that comes next; its variables are the Transformer's.

    Attributes:
        transformer: The Transformer.
        is_word: For each symbol of the target, whether it is a word with its tag.
        word_starts: For each token of the source, whether a word begins with it.
    """

    transformer: nn.Module
    is_word: tuple[bool, ...]
    word_starts: tuple[bool, ...]

    @property
    def wrapped(self) -> Any:
        return self.transformer

    def __call__(self, source, target, rows=None):
        return self.project(self.features(source, target, rows))

    def features(self, source, target, rows=None):
        before = shift_right(target, self.config.start_id)
        written = jnp.cumsum(jnp.asarray(self.is_word)[before], axis=1, dtype=jnp.int32)
        near = self._near(self._words(source), written)
        return self.wrapped.features(source, target, rows, Masks(cross=near))

    def init_cache(self, source, rows_per_sentence, places):
        cache = self.wrapped.init_cache(source, rows_per_sentence, places)
        written = jnp.zeros(source.shape[0] * rows_per_sentence, jnp.int32)
        return WrapperCache.of(cache, written, self._words(source))

    def decode_step(self, cache, tokens):
        words, before, mask = cache.words, cache.of_model, cache.inner.memory_mask
        written = cache.state + jnp.asarray(self.is_word)[tokens]
        near = self._near(words, written.reshape(words.shape[0], -1))
        before = before._replace(memory_mask=mask & near)
        after, features = self.wrapped.decode_step(before, tokens)
        return WrapperCache.of(after._replace(memory_mask=mask), written, words), features

    def resize_cache(self, cache, source_length, places):
        cache = super().resize_cache(cache, source_length, places)
        return cache._replace(words=resize_axis(cache.words, source_length, 1))

    def _words(self, source):
        """Number the word of each token, [B, S]; what ends the sentence follows them all."""
        starts = jnp.asarray(self.word_starts)[source] | (source == EOS_ID)
        return jnp.cumsum(starts, axis=1, dtype=jnp.int32) - 1

    def _near(self, words, written):
        return near_next_word(words, written, self.config.cross_attention_radius)[:, None]


def near_next_word(words: jax.Array, written: jax.Array, radius: int) -> jax.Array:
    """Tell which tokens of a source belong to words near the one that comes next.

    Args:
        words: [B, S], the word of each token, from 0; what ends the sentence is one more.
        written: [B, T], words that have been written before each symbol.
        radius: Words on either side of the next.

    Returns:
        Boolean [B, T, S].

    >>> words = jnp.array([[0, 1, 1, 2, 3]])  # the second word has two pieces
    >>> near_next_word(words, jnp.array([[0, 2]]), 1)[0].astype(int).tolist()
    [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    """
    return jnp.abs(words[:, None, :] - written[:, :, None]) <= radius


def window_model(model: nn.Module, vocabularies: Vocabularies, order: str) -> WindowedModel:
    """Make the model that attends around the word that comes next.

    Args:
        model: A Transformer.
        vocabularies: Those of source and target.
        order: One of `ORDERS`.

    Raises:
        UserError: There is no tag among the target's symbols.
    """
    is_word = list(grammar_of(vocabularies.target, order).is_word)
    # A symbol of a held-out tree that the vocabulary lacks is most likely a tag.
    is_word[UNK_ID] = True
    return WindowedModel(model, tuple(is_word), find_word_starts(vocabularies.source))
