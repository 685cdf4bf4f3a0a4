"""An encoder-decoder of convolutions with gates and attention in each layer.

Gehring et al., Convolutional Sequence to Sequence Learning (2017, arXiv 1705.03122), with these
differences: all layers have D features, positions are `config.position_encoding`, scores are
`config.attention_score` (an additive one has the same parameters in all layers), and there is no
weight normalisation, no factor that grows with the source, and no scaling of the encoder's
gradients. Kernels may be dilated, as in ByteNet (arXiv 1610.10099).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.functional.convolution import convolution, gated_linear_unit, receptive_field
from transformer_jax.functional.linear import linear
from transformer_jax.models.alignment import AlignedDecoder, Alignment, Annotations
from transformer_jax.models.dimensions import FLOAT32, name_axes
from transformer_jax.models.embedding import Embedded, Embedding
from transformer_jax.models.encoder_decoder import EncoderDecoder
from transformer_jax.models.layers import DropoutModule, Linear

__all__ = [
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "ConvolutionalModel",
    "ConvolutionalState",
    "dilations",
    "tokens_seen",
]

# A sum of two vectors of variance 1 has variance 1 again after this (section 3.4 there).
SQRT_HALF = math.sqrt(0.5)


class ConvolutionalState(NamedTuple):
    """State of step-by-step decoding: W hypotheses of each of B sentences.

    Attributes:
        position: [B], tokens of each sentence decoded so far.
        history: Per layer [B * W, (k - 1) * dilation, D], what its kernel reads besides the newest.
        annotations: What the decoder attends to; None without `cross`.
    """

    position: jax.Array
    history: tuple[jax.Array, ...]
    annotations: Annotations | None


def dilations(config: ModelConfig, depth: int) -> list[int]:
    """The dilation of each of so many layers.

    >>> dilations(ModelConfig(dilation_base=2), 4)
    [1, 2, 4, 8]
    """
    return [config.dilation_base**i for i in range(depth)]


def tokens_seen(config: ModelConfig) -> int:
    """Count the tokens on which a feature of the decoder's last layer depends, attention aside.

    >>> tokens_seen(ModelConfig(num_layers=4, kernel_width=3))
    9
    """
    return receptive_field(config.kernel_width, dilations(config, config.decoder_depth))


class GatedConvolution(DropoutModule):
    """Dropout, a convolution into 2 D features, and the gate that makes D of them."""

    dilation: int
    causal: bool

    def setup(self):
        width, d_model = self.config.kernel_width, self.config.d_model
        # Section 3.4 there: the gate halves the deviation, dropout raises it.
        deviation = math.sqrt(4 * (1 - self.config.dropout) / (width * d_model))
        normal, zeros = nn.initializers.normal(deviation), nn.initializers.zeros
        shape = (width, d_model, 2 * d_model)
        self.kernel = self.param("kernel", name_axes(normal, "k", "D", "U"), shape, FLOAT32)
        self.bias = self.param("bias", name_axes(zeros, "U"), shape[2:], FLOAT32)

    def __call__(self, x, rows=None):
        """x [B, T, D] -> [B, T, D]."""
        x = self.apply_dropout(x, self.config.dropout, rows)
        kernel = self.kernel.astype(self.dtype)
        return gated_linear_unit(
            convolution(x, kernel, self.bias, dilation=self.dilation, causal=self.causal)
        )

    def step(self, history, x):
        """Apply the kernel at the newest position.

        Args:
            history: [N, (k - 1) * dilation, D], what came before.
            x: The newest [N, D].

        Returns:
            What comes before the next, and the output [N, D].
        """
        seen = jnp.concatenate([history, x[:, None]], axis=1)
        read = seen[:, :: self.dilation].reshape(x.shape[0], -1)
        kernel = self.kernel.astype(self.dtype).reshape(read.shape[1], -1)
        return seen[:, 1:], gated_linear_unit(linear(read, kernel, self.bias))


class ConvolutionalEncoder(Embedded):
    """Convolutions that read to both sides: source -> states, and the same with the embedding.

    >>> from transformer_jax import presets
    >>> encoder = ConvolutionalEncoder(presets.convolutional(vocab_size=50))
    >>> source = jnp.ones((2, 5), jnp.int32)
    >>> variables = jax.jit(encoder.init)(jax.random.key(0), source)
    >>> [states.shape for states in encoder.apply(variables, source)]
    [(2, 5, 128), (2, 5, 128)]
    """

    def setup(self):
        self.set_up_embedding(self.config, ("source",))
        self.layers = [
            GatedConvolution(self.config, dilation, False, name=f"encoder_{i}")
            for i, dilation in enumerate(dilations(self.config, self.config.encoder_depth))
        ]

    def __call__(self, source, rows=None):
        """Encode source [B, S] into the states z, and z + the embedding: both [B, S, D].

        Args:
            source: Token ids [B, S], PAD = 0; a kernel reads zeros there, as beyond the ends.
            rows: As in `Encoder`.
        """
        embedded, is_token = self.embed.source(source, rows), (source != 0)[..., None]
        x = embedded
        for layer in self.layers:
            x = (x + layer(jnp.where(is_token, x, 0), rows)) * SQRT_HALF
        return x, (x + embedded) * SQRT_HALF


class ConvolutionalDecoder(AlignedDecoder):
    """Causal convolutions, each followed by attention to the source: target -> logits.

    >>> from transformer_jax import presets
    >>> decoder = ConvolutionalDecoder(presets.convolutional(vocab_size=50), cross=False)
    >>> target = jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(decoder.init)(jax.random.key(0), target)
    >>> decoder.apply(variables, target).shape
    (2, 3, 50)
    """

    def setup(self):
        config, width = self.config, self.config.d_model
        self.set_up_embedding(config, ("target", "output"))
        self.layers = [
            GatedConvolution(config, dilation, True, name=f"decoder_{i}")
            for i, dilation in enumerate(dilations(config, config.decoder_depth))
        ]
        if self.cross:
            self.alignment = Alignment(config)
            self.queries, self.contexts = (
                [
                    Linear(width, width, ("D", "U"), config, name=f"{name}_{i}")
                    for i in range(config.decoder_depth)
                ]
                for name in ("query", "context")
            )

    def features(self, target, memory=None, source=None, rows=None):
        """Compute what logits are made of, [B, T, D], as `AlignedDecoder.features`.

        Args:
            target: Token ids [B, T].
            memory: The two results of the encoder; None without `cross`.
            source: Token ids [B, S]; None without `cross`.
            rows: As in `Encoder`.
        """
        embedded = self.embed_shifted(target, rows)
        annotations = self._annotate(memory, source)
        x = embedded
        for i, layer in enumerate(self.layers):
            x = (x + self._attend(i, layer(x, rows), embedded, annotations)) * SQRT_HALF
        return self.apply_dropout(x, self.config.dropout, rows)

    def init_cache(self, source, rows_per_sentence: int, places: int, memory=None):
        """Start decoding; arguments as in `ConvolutionalModel.init_cache`.

        Args:
            source: Token ids [B, S].
            rows_per_sentence: Beams.
            places: Not needed: a kernel reads as many tokens, however long a hypothesis is.
            memory: The two results of the encoder; None without `cross`.
        """
        rows, config = source.shape[0] * rows_per_sentence, self.config
        spans = [
            (config.kernel_width - 1) * dilation
            for dilation in dilations(config, config.decoder_depth)
        ]
        history = tuple(jnp.zeros((rows, span, config.d_model), self.dtype) for span in spans)
        position = jnp.zeros(source.shape[0], jnp.int32)
        return ConvolutionalState(position, history, self._annotate(memory, source))

    def decode_step(self, cache: ConvolutionalState, tokens):
        """Decode one token, as `ConvolutionalModel.decode_step`.

        Args:
            cache: The state before.
            tokens: The tokens just decoded [N].
        """
        by_sentence = tokens.reshape(cache.position.shape[0], -1)
        embedded = self.embed.target_at(by_sentence, cache.position)  # [B, W, D]
        x, written = embedded, []
        for i, (layer, history) in enumerate(zip(self.layers, cache.history)):
            history, y = layer.step(history, x.reshape(tokens.shape[0], -1))
            written.append(history)
            y = self._attend(i, y.reshape(x.shape), embedded, cache.annotations)
            x = (x + y) * SQRT_HALF
        cache = cache._replace(position=cache.position + 1, history=tuple(written))
        return cache, x.reshape(tokens.shape[0], 1, -1)

    def _annotate(self, memory, source):
        if not self.cross:
            return None
        states, values = memory
        return self.alignment.annotate(states, values, source)

    def _attend(self, i: int, x, embedded, annotations):
        """Add to x [B, T, D] of layer i what it finds in the source."""
        if not self.cross:
            return x
        query = (self.queries[i](x) + embedded) * SQRT_HALF
        return (x + self.contexts[i](self.alignment(query, annotations))) * SQRT_HALF


class ConvolutionalModel(EncoderDecoder):
    """The encoder-decoder of the architecture convolutional.

    >>> from transformer_jax import presets
    >>> model = ConvolutionalModel(presets.convolutional(vocab_size=50))
    >>> source, target = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(model.init)(jax.random.key(0), source, target)
    >>> model.apply(variables, source, target).shape
    (2, 3, 50)
    """

    def setup(self):
        self.embedder = Embedding(self.config)
        self.encoder = ConvolutionalEncoder(self.config, self.embedder)
        self.decoder = ConvolutionalDecoder(self.config, self.embedder)
        self.share_scope()
