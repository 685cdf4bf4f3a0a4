"""The decoder of section 3.1: a whole target at once, or token by token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.functional.masking import (
    causal_mask,
    combine_masks,
    padding_mask,
    segment_mask,
)
from transformer_jax.functional.products import product_dtype
from transformer_jax.models.cache import resize_axis
from transformer_jax.models.embedding import Embedded, shift_right
from transformer_jax.models.encoder import Masks, Segments, counted_tokens, places_of
from transformer_jax.models.kernels import AttentionFunction, rematerialised
from transformer_jax.models.layers import (
    DecoderLayer,
    KeysValues,
    to_cache_layout,
)
from transformer_jax.models.norms import make_norm

__all__ = ["DecodeState", "Decoder"]


class DecodeState(NamedTuple):
    """State of step-by-step decoding: W hypotheses of each of B sentences.

    Keys and values stay where they are written, when hypotheses change places: `history` says where
    each hypothesis finds its own. So a beam search moves a few bits, not the cache. A token is
    written where no hypothesis of its sentence has one: what all have dropped makes room, and what
    they share is there once.

    Attributes:
        position: [B], tokens of each sentence decoded so far.
        history: [B * W, P], the places of a sentence that hold tokens of each hypothesis, or those
            of them that attention still reaches.
        written: Per layer [B, H, K, P] and [B, H, P, Dv], keys and values of those tokens, in the
            dtype of `functional.products.product_dtype`; so is `memory`.
        memory: Per layer [B, H, K, S] and [B, H, S, Dv], keys and values of the source.
        memory_mask: [B, 1, 1, S]; a step also takes one of its own, [B, 1, W, S].
        position_of: [B, P], the position of the token in each place; None without a radius.
    """

    position: jax.Array
    history: jax.Array
    written: tuple[KeysValues, ...]
    memory: tuple[KeysValues | None, ...]
    memory_mask: jax.Array | None
    position_of: jax.Array | None = None


class Decoder(Embedded):
    """The decoder: target and memory -> logits. Without `cross` it is a language model of the
    target.

    >>> from transformer_jax import presets
    >>> decoder = Decoder(presets.tiny(vocab_size=50), cross=False)
    >>> target = jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(decoder.init)(jax.random.key(0), target)
    >>> decoder.apply(variables, target).shape
    (2, 3, 50)
    """

    cross: bool = True
    attention_fn: AttentionFunction | None = None

    def setup(self):
        config = self.config
        self.set_up_embedding(config, ("target", "output"))
        layer = rematerialised(DecoderLayer, config)
        self.layers = [
            layer(config, self.attention_fn, self.cross, name=f"decoder_{i}")
            for i in range(config.decoder_depth)
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
        if self.cross and not memory.shape[0] == source.shape[0] == target.shape[0]:
            raise ValueError(
                f"memory {memory.shape}, source {source.shape} and target {target.shape} are not "
                "of one batch"
            )
        masks, segments = masks or Masks(), segments or Segments()
        own, places = segments.target, places_of(segments.target)
        shifted = shift_right(target, self.config.start_id)
        if places is not None:
            shifted = jnp.where(places == 0, self.config.start_id, shifted)
        x = self.embed.target(shifted, rows, places=places)
        counted = counted_tokens(self.config, target)
        # Padding needs no mask here: it only follows the tokens that could see it. With a radius
        # self-attention is causal by itself.
        everything = self.config.attention_radius is None
        causal = causal_mask(target.shape[1]) if everything else None
        mask, memory_mask = combine_masks(causal, masks.decoder), None
        if own is not None:
            mask = combine_masks(mask, segment_mask(own, own))
        if self.cross:
            memory_mask = combine_masks(padding_mask(source), masks.cross)
            if own is not None:
                memory_mask = combine_masks(memory_mask, segment_mask(own, segments.source))
        for layer in self.layers:
            x = layer(x, mask, self._keys_values(layer, memory), memory_mask, rows, counted)
        return self._normed(x, counted)

    def init_cache(self, source, rows_per_sentence: int, places: int, memory=None):
        """Start decoding; arguments as in `Transformer.init_cache`.

        Args:
            source: Token ids [B, S].
            rows_per_sentence: Beams.
            places: Tokens of a sentence's hypotheses.
            memory: [B, S, D]; None without `cross`.
        """
        config, sentences = self.config, source.shape[0]
        places = self._useful_places(places, rows_per_sentence)
        # What every step reads lies as it is multiplied: XLA would convert it anew each time.
        shape, dtype = (sentences, config.num_heads), product_dtype(self.dtype)
        empty = (
            jnp.zeros((*shape, config.key_size, places), dtype),
            jnp.zeros((*shape, places, config.value_size), dtype),
        )
        return DecodeState(
            jnp.zeros(sentences, jnp.int32),
            jnp.zeros((sentences * rows_per_sentence, places), bool),
            (empty,) * config.decoder_depth,
            tuple(self._cached_memory(layer, memory) for layer in self.layers),
            padding_mask(source) if self.cross else None,
            None if config.attention_radius is None else jnp.zeros((sentences, places), jnp.int32),
        )

    def project(self, features):
        """Turn features [B, T, D] into logits [B, T, V] in float32."""
        return self.embed.logits(features)

    def decode_step(self, cache: DecodeState, tokens) -> tuple[DecodeState, jax.Array]:
        """Decode one token, as `Transformer.decode_step`.

        Args:
            cache: The state before.
            tokens: The tokens just decoded [N].
        """
        sentences, places = cache.position.shape[0], cache.history.shape[1]
        history = cache.history.reshape(sentences, -1, places)
        # One free place for each hypothesis.
        free = _first_places(~_places_in_use(cache), history.shape[1])
        history |= free[..., None] == jnp.arange(places)[None, None]
        x = self.embed.target_at(tokens.reshape(free.shape), cache.position)
        rows = jnp.arange(sentences)[:, None]
        written: list[KeysValues] = []

        def update_cache_of(old: KeysValues):
            def update_cache(new: KeysValues) -> KeysValues:
                keys, values = (each.astype(kept.dtype) for each, kept in zip(new, old))
                keys = old[0].at[rows, :, :, free].set(keys, unique_indices=True)
                values = old[1].at[rows, :, free].set(values, unique_indices=True)
                written.append((keys, values))
                return keys, values

            return update_cache

        mask = history[:, None]
        for layer, old, memory in zip(self.layers, cache.written, cache.memory):
            x = layer.decode_step(x, update_cache_of(old), mask, memory, cache.memory_mask)
        position_of, radius = cache.position_of, self.config.attention_radius
        if position_of is not None and radius is not None:
            position_of = position_of.at[rows, free].set(cache.position[:, None])
            # What the next token does not reach makes room.
            reached = cache.position[:, None] + 1 - position_of <= radius
            history &= reached[:, None]
        cache = cache._replace(
            position=cache.position + 1,
            history=history.reshape(cache.history.shape),
            written=tuple(written),
            position_of=position_of,
        )
        return cache, self._normed(x).reshape(tokens.shape[0], 1, -1)

    def places_taken(self, cache: DecodeState) -> jax.Array:
        """Count the places of each sentence [B] that hold a token of any of its hypotheses."""
        return jnp.sum(_places_in_use(cache), axis=1)

    def resize_cache(self, cache: DecodeState, source_length: int, places: int) -> DecodeState:
        """Give a state other sizes, as `Transformer.resize_cache`.

        Args:
            cache: The state.
            source_length: S.
            places: P.
        """
        old = cache.history.shape[1]
        places = self._useful_places(places, cache.history.shape[0] // cache.position.shape[0])
        if places < old:
            history = cache.history.reshape(cache.position.shape[0], -1, old)
            # Those that are taken come first.
            order = _first_places(_places_in_use(cache), places)
            cache = cache._replace(
                history=jnp.take_along_axis(history, order[:, None], 2).reshape(-1, places),
                written=tuple(
                    (
                        jnp.take_along_axis(keys, order[:, None, None], 3),
                        jnp.take_along_axis(values, order[:, None, :, None], 2),
                    )
                    for keys, values in cache.written
                ),
                position_of=jax.tree.map(  # which may be None
                    lambda x: jnp.take_along_axis(x, order, 1), cache.position_of
                ),
            )
        elif places > old:
            cache = cache._replace(
                history=resize_axis(cache.history, places, 1),
                written=_resize_all(cache.written, places),
                position_of=jax.tree.map(lambda x: resize_axis(x, places, 1), cache.position_of),
            )
        if cache.memory_mask is None:
            return cache
        return cache._replace(
            memory=_resize_all(cache.memory, source_length),
            memory_mask=resize_axis(cache.memory_mask, source_length, 3),
        )

    def _useful_places(self, places: int, rows_per_sentence: int) -> int:
        """Of so many places those that can be taken: with a radius each row reaches so many."""
        radius = self.config.attention_radius
        return places if radius is None else min(places, rows_per_sentence * (radius + 1))

    def _keys_values(self, layer, memory):
        return layer.cross_attention.keys_values(memory) if self.cross else None

    def _cached_memory(self, layer, memory):
        if not self.cross:
            return None
        keys, values = to_cache_layout(self._keys_values(layer, memory))
        dtype = product_dtype(self.dtype)
        return keys.astype(dtype), values.astype(dtype)

    def _normed(self, x, counted=None):
        return self.decoder_norm(x, counted) if self.config.norm_placement == "pre" else x


def _places_in_use(cache: DecodeState) -> jax.Array:
    """Which places of each sentence hold a token of any of its hypotheses, [B, P]."""
    sentences, places = cache.position.shape[0], cache.history.shape[1]
    return jnp.any(cache.history.reshape(sentences, -1, places), axis=1)


def _first_places(is_wanted: jax.Array, count: int) -> jax.Array:
    """Find `count` places of each sentence, [B, count]: those that are wanted [B, P] come first.

    XLA finds the largest of zeros and ones 20 times as fast as it sorts them on a CPU.
    """
    return jax.lax.top_k(is_wanted.astype(jnp.float32), count)[1]


def _resize_all(cache: Any, size: int) -> Any:
    """Resize the axis of the tokens of each layer's keys and values."""
    return tuple(
        (resize_axis(keys, size, 3), resize_axis(values, size, 2)) for keys, values in cache
    )
