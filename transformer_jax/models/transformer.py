"""The encoder-decoder of section 3.

Token ids are int32, PAD = 0. Targets are passed unshifted, ending in EOS; the model shifts them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.functional.embedding import embed, unembed
from transformer_jax.functional.masking import causal_mask, padding_mask
from transformer_jax.functional.positions import learned_positions, sinusoids
from transformer_jax.models.dimensions import named
from transformer_jax.models.layers import (
    FLOAT32,
    DecoderLayer,
    DropoutModule,
    EncoderLayer,
    KeysValues,
    LayerNorm,
)

__all__ = ["DecoderCache", "Transformer"]


class DecoderCache(NamedTuple):
    """What decoding remembers; N rows (sentences x beams) at one common position.

    position     []                            tokens decoded so far
    history      per layer [N, T, H, K] and [N, T, H, Dv]   keys and values of those tokens
    memory       per layer [B, S, H, K] and [B, S, H, Dv]   keys and values of the source
    memory_mask  [B, 1, 1, S]
    """

    position: jax.Array
    history: tuple[KeysValues, ...]
    memory: tuple[KeysValues, ...]
    memory_mask: jax.Array


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
        config = self.config
        tables = {
            "all": ["embedding"] * 3,
            "decoder": ["source_embedding", "target_embedding", "target_embedding"],
            "none": ["source_embedding", "target_embedding", "output_embedding"],
        }[config.tied]
        normal = nn.initializers.normal(config.d_model**-0.5)
        shape = (config.vocab_size, config.d_model)
        table = named(normal, "V", "D")
        made = {name: self.param(name, table, shape, FLOAT32) for name in dict.fromkeys(tables)}
        self.source_table, self.target_table, self.output_table = (made[name] for name in tables)
        if config.positions == "learned":
            shape = (config.max_positions, config.d_model)
            table = named(normal, "P", "D")
            self.position_table = self.param("position_table", table, shape, FLOAT32)
        self.encoder = [EncoderLayer(config) for _ in range(config.num_layers)]
        self.decoder = [DecoderLayer(config) for _ in range(config.num_layers)]
        if config.norm == "pre":
            self.encoder_norm = LayerNorm(config)
            self.decoder_norm = LayerNorm(config)

    def __call__(self, source, target, rows=None):
        """source [B, S], target [B, T] -> logits [B, T, V], float32.

        With `rows` [B], integers that number the sentences, a sentence draws its dropout by its
        number, whatever the others of its batch are.
        """
        return self.decode(self.encode(source, rows), source, target, rows)

    def encode(self, source, rows=None):
        """source [B, S] -> memory [B, S, D]; `rows` as in a call."""
        mask = padding_mask(source)
        x = self._embed(source, self.source_table, self._positions(source.shape[1]))
        x = self.drop(x, self.config.dropout, rows)
        for layer in self.encoder:
            x = layer(x, mask, rows)
        return self.encoder_norm(x) if self.config.norm == "pre" else x

    def decode(self, memory, source, target, rows=None):
        """memory [B, S, D], source [B, S], target [B, T] -> logits [B, T, V].

        logits[:, t] predicts target[:, t] from target[:, :t]; `rows` as in a call. ValueError if
        the batches differ.
        """
        if not len(memory) == len(source) == len(target):
            raise ValueError(
                f"memory {memory.shape}, source {source.shape} and target {target.shape} are not "
                "of one batch"
            )
        length = target.shape[1]
        start = jnp.full_like(target[:, :1], self.config.start_id)
        shifted = jnp.concatenate([start, target[:, :-1]], axis=1)
        x = self._embed(shifted, self.target_table, self._positions(length))
        x = self.drop(x, self.config.dropout, rows)
        # Padding needs no mask here: it only follows the tokens that could see it.
        mask, memory_mask = causal_mask(length), padding_mask(source)
        for layer in self.decoder:
            x = layer(x, mask, layer.cross_attention.keys_values(memory), memory_mask, rows)
        return self._logits(x)

    def start_cache(self, source, rows_per_sentence: int, max_length: int) -> DecoderCache:
        """Encode source [B, S] and make room for `max_length` steps of B * rows_per_sentence rows.

        Row b * rows_per_sentence + w is beam w of sentence b.
        """
        config = self.config
        memory = self.encode(source)
        rows = (source.shape[0] * rows_per_sentence, max_length, config.num_heads)
        empty = (
            jnp.zeros((*rows, config.key_size), self.dtype),
            jnp.zeros((*rows, config.value_size), self.dtype),
        )
        return DecoderCache(
            jnp.zeros((), jnp.int32),
            (empty,) * config.num_layers,
            tuple(layer.cross_attention.keys_values(memory) for layer in self.decoder),
            padding_mask(source),
        )

    def decode_step(self, cache: DecoderCache, tokens) -> tuple[DecoderCache, jax.Array]:
        """tokens [N], those just decoded (`start_id` at first) -> (cache, next logits [N, V]).

        At most max_length steps, and max_positions where positions are learned: later ones would
        overwrite the last.
        """
        position, max_length = cache.position, cache.history[0][0].shape[1]
        learned = self.config.positions == "learned"
        table = self._positions(self.config.max_positions if learned else max_length)
        if table is not None:
            table = jax.lax.dynamic_slice_in_dim(table, position, 1)
        x = self._embed(tokens[:, None], self.target_table, table)
        mask = (jnp.arange(max_length) <= position)[None, None, None]
        history: list[KeysValues] = []

        def remember(layer_history):
            def extended(new):
                keys, values = (
                    jax.lax.dynamic_update_slice_in_dim(old, entry, position, axis=1)
                    for old, entry in zip(layer_history, new)
                )
                history.append((keys, values))
                return keys, values

            return extended

        for layer, old, memory in zip(self.decoder, cache.history, cache.memory):
            x = layer(x, mask, memory, cache.memory_mask, remember=remember(old))
        cache = cache._replace(position=position + 1, history=tuple(history))
        return cache, self._logits(x)[:, 0]

    def _embed(self, tokens, table, positions):
        """Embedding + position, rounded once: a sum over tokens is the gradient of both tables."""
        x = embed(tokens, table)
        return (x if positions is None else x + positions[None]).astype(self.dtype)

    def _positions(self, length):
        config = self.config
        if config.positions == "none":
            return None
        if config.positions == "learned":
            return learned_positions(self.position_table, length)
        return sinusoids(length, config.d_model, config.positions)

    def _logits(self, x):
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        return unembed(x, self.output_table.astype(self.dtype))
