"""The encoder of section 3.1, and what says which tokens it and the decoder may see."""

from typing import NamedTuple

import jax

from transformer_jax.config import ModelConfig
from transformer_jax.functional.masking import combine_masks, padding_mask, segment_mask
from transformer_jax.functional.positions import segment_positions
from transformer_jax.models.embedding import Embedded
from transformer_jax.models.kernels import AttentionFunction, rematerialised
from transformer_jax.models.layers import EncoderLayer
from transformer_jax.models.norms import make_norm

__all__ = ["Encoder", "Masks", "Segments", "counted_tokens", "places_of"]


class Masks(NamedTuple):
    """Further masks on what may be attended to, beside those of the model.

    Each is boolean, broadcasts to [B, H, T, S], and is None where it adds nothing.
    """

    encoder: jax.Array | None = None
    decoder: jax.Array | None = None
    cross: jax.Array | None = None


class Segments(NamedTuple):
    """Numbers of the sentences that are packed in one row, 0 for padding, as in `segment_mask`.

    source [B, S], target [B, T]; a sentence has the same number on both sides. Each sentence
    attends to itself only, its positions count from 0, and its target begins with the start symbol.
    """

    source: jax.Array | None = None
    target: jax.Array | None = None


class Encoder(Embedded):
    """The encoder: source -> memory. It works alone too, with a Transformer's parameters or its
    own.

    >>> import jax.numpy as jnp
    >>> from transformer_jax import presets
    >>> encoder, source = Encoder(presets.tiny(vocab_size=50)), jnp.ones((2, 5), jnp.int32)
    >>> variables = jax.jit(encoder.init)(jax.random.key(0), source)
    >>> encoder.apply(variables, source).shape
    (2, 5, 128)
    """

    attention_fn: AttentionFunction | None = None

    def setup(self):
        config = self.config
        self.set_up_embedding(config, ("source",))
        layer = rematerialised(EncoderLayer, config)
        self.layers = [
            layer(config, self.attention_fn, name=f"encoder_{i}")
            for i in range(config.encoder_depth)
        ]
        if config.norm_placement == "pre":
            self.encoder_norm = make_norm(config)

    def __call__(self, source, rows=None, mask=None, segments=None):
        """Encode source [B, S] into the memory [B, S, D].

        Args:
            source: Token ids [B, S], PAD = 0.
            rows: Integers [B] that number the sentences; a sentence then draws its dropout by its
                number, whatever else is in the batch.
            mask: As in `Masks`.
            segments: [B, S] as in `Segments`.
        """
        counted = counted_tokens(self.config, source)
        mask = combine_masks(padding_mask(source), mask)
        if segments is not None:
            mask = combine_masks(mask, segment_mask(segments, segments))
        x = self.embed.source(source, rows, places=places_of(segments))
        for layer in self.layers:
            x = layer(x, mask, rows, counted)
        return self.encoder_norm(x, counted) if self.config.norm_placement == "pre" else x


def counted_tokens(config: ModelConfig, tokens):
    """Return what counts for the statistics of a batch norm; None where there is none."""
    return tokens != 0 if config.normalization == "batch" else None


def places_of(segments):
    return None if segments is None else segment_positions(segments)
