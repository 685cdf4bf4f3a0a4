"""The decoder of section 3.1: a whole target at once, or token by token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.functional.masking import (
    causal_mask,
    combine_masks,
    padding_mask,
    segment_mask,
)
from transformer_jax.models.embedding import Embedding
from transformer_jax.models.encoder import Masks, Segments, counted_tokens, places_of
from transformer_jax.models.kernels import AttentionFunction, rematerialised
from transformer_jax.models.layers import (
    DecoderLayer,
    DropoutModule,
    KeysValues,
    to_cache_layout,
)
from transformer_jax.models.norms import make_norm

__all__ = ["DecodeState", "Decoder"]


class DecodeState(NamedTuple):
    """State of step-by-step decoding: W hypotheses of each of B sentences.

    Keys and values stay where they are written, when hypotheses change places: `history` says where
    each hypothesis finds its own. So a beam search moves a few integers, not the cache. All
    sentences write to the same place, and to the first again after the last; one that begins later
    finds its first token further on.

    Attributes:
        position: [B], tokens of each sentence decoded so far.
        place: [], where the next token is written.
        history: [B * W, T], of each hypothesis and place the hypothesis, from 1 to W, that wrote
            its token there; 0 where none of its tokens is.
        written: Per layer [B, H, K, T * W] and [B, H, T * W, Dv], keys and values of those tokens.
        memory: Per layer [B, H, K, S] and [B, H, S, Dv], keys and values of the source.
        memory_mask: [B, 1, 1, S].
    """

    position: jax.Array
    place: jax.Array
    history: jax.Array
    written: tuple[KeysValues, ...]
    memory: tuple[KeysValues | None, ...]
    memory_mask: jax.Array | None


class Decoder(DropoutModule):
    """The decoder: target and memory -> logits. Without `cross` it is a language model of the
    target.

    >>> from transformer_jax import presets
    >>> decoder = Decoder(presets.tiny(vocab_size=50), cross=False)
    >>> target = jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(decoder.init)(jax.random.key(0), target)
    >>> decoder.apply(variables, target).shape
    (2, 3, 50)
    """

    embedding: Embedding | None = None
    cross: bool = True
    attention_fn: AttentionFunction | None = None

    def setup(self):
        config = self.config
        self.embed = self.embedding or Embedding(config, ("target", "output"))
        if self.embedding is None:
            nn.share_scope(self, self.embed)
        layer = rematerialised(DecoderLayer, config)
        self.layers = [
            layer(config, self.attention_fn, self.cross, name=f"decoder_{i}")
            for i in range(config.num_layers)
        ]
        if config.norm_placement == "pre":
            self.decoder_norm = make_norm(config)

    def __call__(self, target, memory=None, source=None, rows=None, masks=None, segments=None):
        """Compute logits [B, T, V]; arguments as in `features`."""
        return self.embed.logits(self.features(target, memory, source, rows, masks, segments))

    def features(self, target, memory=None, source=None, rows=None, masks=None, segments=None):
        """Compute what logits are made of, [B, T, D]; features[:, t] predicts target[:, t].

        Args:
            target: Token ids [B, T], unshifted, ending in EOS; position t sees target[:, :t].
            memory: [B, S, D]; None without `cross`.
            source: Token ids [B, S], for the padding mask; None without `cross`.
            rows: As in `Encoder`.
            masks: Further masks, as `Masks`.
            segments: Sentences packed in one row, as `Segments`.

        Raises:
            ValueError: Memory, source and target have different batch sizes.
        """
        if self.cross and not len(memory) == len(source) == len(target):
            raise ValueError(
                f"memory {memory.shape}, source {source.shape} and target {target.shape} are not "
                "of one batch"
            )
        masks, segments = masks or Masks(), segments or Segments()
        own, places = segments.target, places_of(segments.target)
        start = jnp.full_like(target[:, :1], self.config.start_id)
        shifted = jnp.concatenate([start, target[:, :-1]], axis=1)
        if places is not None:
            shifted = jnp.where(places == 0, self.config.start_id, shifted)
        x = self.embed.target(shifted, rows, places=places)
        counted = counted_tokens(self.config, target)
        # Padding needs no mask here: it only follows the tokens that could see it.
        mask, memory_mask = combine_masks(causal_mask(target.shape[1]), masks.decoder), None
        if own is not None:
            mask = combine_masks(mask, segment_mask(own, own))
        if self.cross:
            memory_mask = combine_masks(padding_mask(source), masks.cross)
            if own is not None:
                memory_mask = combine_masks(memory_mask, segment_mask(own, segments.source))
        for layer in self.layers:
            x = layer(x, mask, self._keys_values(layer, memory), memory_mask, rows, counted)
        return self._normed(x, counted)

    def init_cache(self, source, rows_per_sentence: int, max_length: int, memory=None):
        """Start decoding; arguments as in `Transformer.init_cache`.

        Args:
            source: Token ids [B, S].
            rows_per_sentence: Beams.
            max_length: Most tokens.
            memory: [B, S, D]; None without `cross`.
        """
        config, count = self.config, rows_per_sentence
        shape = (len(source), config.num_heads)
        empty = (
            jnp.zeros((*shape, config.key_size, max_length * count), self.dtype),
            jnp.zeros((*shape, max_length * count, config.value_size), self.dtype),
        )
        return DecodeState(
            jnp.zeros(len(source), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((len(source) * count, max_length), jnp.int32),
            (empty,) * config.num_layers,
            tuple(self._cached_memory(layer, memory) for layer in self.layers),
            padding_mask(source) if self.cross else None,
        )

    def decode_step(self, cache: DecodeState, tokens) -> tuple[DecodeState, jax.Array]:
        """Decode one token, as `Transformer.decode_step`.

        Args:
            cache: The state before.
            tokens: The tokens just decoded [N].
        """
        place, max_length = cache.place, cache.history.shape[1]
        sentences = len(cache.position)
        count = len(tokens) // sentences
        numbers = jnp.arange(1, count + 1, dtype=jnp.int32)
        history = cache.history.at[:, place].set(jnp.tile(numbers, sentences))
        own = history[..., None] == numbers[None, None]
        mask = own.reshape(sentences, 1, count, max_length * count)
        x = self.embed.target_at(tokens.reshape(sentences, count), cache.position, max_length)
        written: list[KeysValues] = []

        def update_cache_of(old: KeysValues):
            def update_cache(new: KeysValues) -> KeysValues:
                (old_keys, old_values), (keys, values) = old, to_cache_layout(new)
                extend = jax.lax.dynamic_update_slice_in_dim
                keys = extend(old_keys, keys, place * count, axis=3)
                values = extend(old_values, values, place * count, axis=2)
                written.append((keys, values))
                return keys, values

            return update_cache

        for layer, old, memory in zip(self.layers, cache.written, cache.memory):
            x = layer.decode_step(x, update_cache_of(old), mask, memory, cache.memory_mask)
        cache = cache._replace(
            position=cache.position + 1,
            place=(place + 1) % max_length,
            history=history,
            written=tuple(written),
        )
        return cache, self.embed.logits(self._normed(x)).reshape(len(tokens), -1)

    def resize_cache(self, cache: DecodeState, source_length: int, max_length: int) -> DecodeState:
        """Give a state other sizes, as `Transformer.resize_cache`.

        Args:
            cache: The state.
            source_length: S.
            max_length: T.
        """
        old, count = cache.history.shape[1], len(cache.history) // len(cache.position)

        def resize_places(values, axis: int, each: int = 1):
            # The newest place comes last, so that the next to write is the first.
            in_order = jnp.roll(values, -cache.place * each, axis)
            return _resize_axis(in_order, max_length * each, axis, at_end=False)

        if max_length != old:
            cache = cache._replace(
                place=jnp.zeros_like(cache.place),
                history=resize_places(cache.history, 1),
                written=tuple(
                    (resize_places(keys, 3, count), resize_places(values, 2, count))
                    for keys, values in cache.written
                ),
            )
        if cache.memory_mask is None:
            return cache

        def resize_memory(keys_values):
            keys, values = keys_values
            return _resize_axis(keys, source_length, 3), _resize_axis(values, source_length, 2)

        return cache._replace(
            memory=tuple(map(resize_memory, cache.memory)),
            memory_mask=_resize_axis(cache.memory_mask, source_length, 3),
        )

    def _keys_values(self, layer, memory):
        return layer.cross_attention.keys_values(memory) if self.cross else None

    def _cached_memory(self, layer, memory):
        return to_cache_layout(self._keys_values(layer, memory)) if self.cross else None

    def _normed(self, x, counted=None):
        return self.decoder_norm(x, counted) if self.config.norm_placement == "pre" else x


def _resize_axis(values: jax.Array, size: int, axis: int, at_end: bool = True) -> jax.Array:
    """Append zeros to an axis, or cut it off, at its end or at its beginning."""
    old = values.shape[axis]
    if size <= old:
        first = 0 if at_end else old - size
        return jax.lax.slice_in_dim(values, first, first + size, axis=axis)
    room = [(0, 0)] * values.ndim
    room[axis] = (0, size - old) if at_end else (size - old, 0)
    return jnp.pad(values, room)
