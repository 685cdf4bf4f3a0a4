"""The encoder-decoder of section 3, and its halves alone.

Token ids are int32, PAD = 0. Targets are passed unshifted, ending in EOS; the model shifts them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.functional.masking import (
    causal_mask,
    combine_masks,
    padding_mask,
    segment_mask,
)
from transformer_jax.functional.positions import segment_positions
from transformer_jax.models.embedding import Embedding
from transformer_jax.models.layers import (
    DecoderLayer,
    DropoutModule,
    EncoderLayer,
    KeysValues,
)
from transformer_jax.models.norms import make_norm

__all__ = ["DecodeState", "Decoder", "Encoder", "Masks", "Segments", "Transformer"]


class Masks(NamedTuple):
    """What may be attended to beside what the model allows anyway; each is boolean, broadcasts to
    [B, H, T, S], and None where it adds nothing."""

    encoder: jax.Array | None = None
    decoder: jax.Array | None = None
    cross: jax.Array | None = None


class Segments(NamedTuple):
    """Sentences packed in one row: integers that number them, 0 for padding, as `segment_mask`.

    source [B, S], target [B, T]; a sentence has the same number on both sides. Each sees its own
    sentence only, its positions count from 0, and its target begins with the start symbol.
    """

    source: jax.Array | None = None
    target: jax.Array | None = None


class DecodeState(NamedTuple):
    """What decoding remembers; N rows (sentences x beams) at one common position.

    position     []                            tokens decoded so far
    history      per layer [N, T, H, K] and [N, T, H, Dv]   keys and values of those tokens
    memory       per layer [B, S, H, K] and [B, S, H, Dv]   keys and values of the source
    memory_mask  [B, 1, 1, S]
    """

    position: jax.Array
    history: tuple[KeysValues, ...]
    memory: tuple[KeysValues | None, ...]
    memory_mask: jax.Array | None


class Encoder(DropoutModule):
    """Source -> memory; alone too, with the parameters of a Transformer or its own.

    >>> from transformer_jax import presets
    >>> encoder, source = Encoder(presets.tiny(vocab_size=50)), jnp.ones((2, 5), jnp.int32)
    >>> variables = jax.jit(encoder.init)(jax.random.key(0), source)
    >>> encoder.apply(variables, source).shape
    (2, 5, 128)
    """

    embedding: Embedding | None = None

    def setup(self):
        config = self.config
        self.embed = self.embedding or Embedding(config, ("source",))
        if self.embedding is None:
            nn.share_scope(self, self.embed)
        self.layers = [EncoderLayer(config, name=f"encoder_{i}") for i in range(config.num_layers)]
        if config.norm_placement == "pre":
            self.encoder_norm = make_norm(config)

    def __call__(self, source, rows=None, mask=None, segments=None):
        """source [B, S] -> memory [B, S, D].

        With `rows` [B], integers that number the sentences, a sentence draws its dropout by its
        number, whatever the others of its batch are. `mask` as in `Masks`, `segments` [B, S] as in
        `Segments`.
        """
        counted = _counted(self.config, source)
        mask = combine_masks(padding_mask(source), mask)
        if segments is not None:
            mask = combine_masks(mask, segment_mask(segments, segments))
        x = self.embed.source(source, rows, places=_places(segments))
        for layer in self.layers:
            x = layer(x, mask, rows, counted)
        return self.encoder_norm(x, counted) if self.config.norm_placement == "pre" else x


class Decoder(DropoutModule):
    """Target and memory -> logits; without `cross` a language model, of a target alone.

    >>> from transformer_jax import presets
    >>> decoder = Decoder(presets.tiny(vocab_size=50), cross=False)
    >>> target = jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(decoder.init)(jax.random.key(0), target)
    >>> decoder.apply(variables, target).shape
    (2, 3, 50)
    """

    embedding: Embedding | None = None
    cross: bool = True

    def setup(self):
        config = self.config
        self.embed = self.embedding or Embedding(config, ("target", "output"))
        if self.embedding is None:
            nn.share_scope(self, self.embed)
        self.layers = [
            DecoderLayer(config, self.cross, name=f"decoder_{i}") for i in range(config.num_layers)
        ]
        if config.norm_placement == "pre":
            self.decoder_norm = make_norm(config)

    def __call__(self, target, memory=None, source=None, rows=None, masks=None, segments=None):
        """target [B, T], memory [B, S, D], source [B, S] -> logits [B, T, V]."""
        return self.embed.logits(self.features(target, memory, source, rows, masks, segments))

    def features(self, target, memory=None, source=None, rows=None, masks=None, segments=None):
        """target [B, T], memory [B, S, D], source [B, S] -> [B, T, D], what logits are made of.

        features[:, t] predicts target[:, t] from target[:, :t]. `rows` as in `Encoder`; `masks` are
        `Masks`, `segments` are `Segments`. ValueError if the batches differ.
        """
        if self.cross and not len(memory) == len(source) == len(target):
            raise ValueError(
                f"memory {memory.shape}, source {source.shape} and target {target.shape} are not "
                "of one batch"
            )
        masks, segments = masks or Masks(), segments or Segments()
        own, places = segments.target, _places(segments.target)
        start = jnp.full_like(target[:, :1], self.config.start_id)
        shifted = jnp.concatenate([start, target[:, :-1]], axis=1)
        if places is not None:
            shifted = jnp.where(places == 0, self.config.start_id, shifted)
        x = self.embed.target(shifted, rows, places=places)
        counted = _counted(self.config, target)
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
        """As `Transformer.init_cache`; `memory` [B, S, D] of the source, None without `cross`."""
        config = self.config
        rows = (len(source) * rows_per_sentence, max_length, config.num_heads)
        empty = (
            jnp.zeros((*rows, config.key_size), self.dtype),
            jnp.zeros((*rows, config.value_size), self.dtype),
        )
        return DecodeState(
            jnp.zeros((), jnp.int32),
            (empty,) * config.num_layers,
            tuple(self._keys_values(layer, memory) for layer in self.layers),
            padding_mask(source) if self.cross else None,
        )

    def decode_step(self, cache: DecodeState, tokens) -> tuple[DecodeState, jax.Array]:
        """As `Transformer.decode_step`."""
        position, max_length = cache.position, cache.history[0][0].shape[1]
        x = self.embed.target_at(tokens, position, max_length)
        mask = (jnp.arange(max_length) <= position)[None, None, None]
        history: list[KeysValues] = []

        def update_cache_of(layer_history):
            def extended(new):
                keys, values = (
                    jax.lax.dynamic_update_slice_in_dim(old, entry, position, axis=1)
                    for old, entry in zip(layer_history, new)
                )
                history.append((keys, values))
                return keys, values

            return extended

        for layer, old, memory in zip(self.layers, cache.history, cache.memory):
            x = layer(x, mask, memory, cache.memory_mask, update_cache=update_cache_of(old))
        cache = cache._replace(position=position + 1, history=tuple(history))
        return cache, self.embed.logits(self._normed(x))[:, 0]

    def _keys_values(self, layer, memory):
        return layer.cross_attention.keys_values(memory) if self.cross else None

    def _normed(self, x, counted=None):
        return self.decoder_norm(x, counted) if self.config.norm_placement == "pre" else x


class Transformer(DropoutModule):
    """Encoder and decoder with one table for source, target and output.

    >>> from transformer_jax import presets
    >>> model = Transformer(presets.tiny(vocab_size=50))
    >>> source, target = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(model.init)(jax.random.key(0), source, target)
    >>> model.apply(variables, source, target).shape
    (2, 3, 50)
    """

    def setup(self):
        # One scope for all three: no path of a parameter, and so no random number, names a half.
        self.embedder = Embedding(self.config)
        self.encoder = Encoder(self.config, self.embedder)
        self.decoder = Decoder(self.config, self.embedder)
        for part in (self.embedder, self.encoder, self.decoder):
            nn.share_scope(self, part)

    def __call__(self, source, target, rows=None, masks=None, segments=None):
        """source [B, S], target [B, T] -> logits [B, T, V], float32.

        `rows` as in `Encoder`; `masks` are `Masks`, `segments` are `Segments`.
        """
        masks, segments = masks or Masks(), segments or Segments()
        memory = self.encode(source, rows, masks.encoder, segments.source)
        return self.decode(memory, source, target, rows, masks, segments)

    def features(self, source, target, rows=None, masks=None, segments=None):
        """What `project` makes logits of: [B, T, D], aligned with the target."""
        masks, segments = masks or Masks(), segments or Segments()
        memory = self.encode(source, rows, masks.encoder, segments.source)
        return self.decoder.features(target, memory, source, rows, masks, segments)

    def project(self, features):
        """[B, T, D] -> logits [B, T, V], float32."""
        return self.embedder.logits(features)

    def encode(self, source, rows=None, mask=None, segments=None):
        """source [B, S] -> memory [B, S, D], as `Encoder`."""
        return self.encoder(source, rows, mask, segments)

    def decode(self, memory, source, target, rows=None, masks=None, segments=None):
        """memory [B, S, D], source [B, S], target [B, T] -> logits [B, T, V], as `Decoder`.

        logits[:, t] predicts target[:, t] from target[:, :t].
        """
        return self.decoder(target, memory, source, rows, masks, segments)

    def init_cache(self, source, rows_per_sentence: int, max_length: int) -> DecodeState:
        """Encode source [B, S] and make room for `max_length` steps of B * rows_per_sentence rows.

        Row b * rows_per_sentence + w is beam w of sentence b.
        """
        memory = self.encode(source)
        return self.decoder.init_cache(source, rows_per_sentence, max_length, memory)

    def decode_step(self, cache: DecodeState, tokens) -> tuple[DecodeState, jax.Array]:
        """tokens [N], those just decoded (`start_id` at first) -> (cache, next logits [N, V]).

        At most max_length steps, and max_positions where positions are learned: later ones would
        overwrite the last.
        """
        return self.decoder.decode_step(cache, tokens)


def _counted(config: ModelConfig, tokens):
    """What counts for the statistics of a batch norm; None where there is none."""
    return tokens != 0 if config.normalization == "batch" else None


def _places(segments):
    return None if segments is None else segment_positions(segments)
