"""Architectures by name: what differs between them, asked for in one place.

A family's model is a Flax module with its ModelConfig as `config`, whose parameters have logical
axes (`models.dimensions`), and with

    __call__(source [B, S], target [B, T], rows=None) -> logits [B, T, V]
    features(source, target, rows=None) -> [B, T, D]
    project(features) -> logits of each position, whatever positions stand beside it

and, where a search is to write the target,

    init_cache(source, rows_per_sentence, places) -> cache, a NamedTuple
    decode_step(cache, tokens [N]) -> (cache, features [N, 1, D] of the next token)
    places_taken(cache) -> places of each sentence that are taken, [B]; 0 where none is needed
    resize_cache(cache, source_length, places) -> cache, for sources of that length

The hypotheses of a sentence share so many `places` for their tokens; a step takes at most one for
each of them. The field `history` of the cache has a row for each of the N = B * rows_per_sentence
hypotheses; a search moves these rows, within their sentence, as hypotheses change places. Every
other array has a row, or as many, for each sentence. A model may have

    allowed(cache) -> boolean [N, V], the tokens that may come next, of which there is always one

`FAMILIES` is open: put another family in under its name, which is what
`ModelConfig.architecture` says.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.models.convolutional import ConvolutionalModel
from transformer_jax.models.recurrent import RecurrentModel
from transformer_jax.models.transformer import Transformer

__all__ = ["FAMILIES", "Family", "build_model", "family_of"]


class Family(Protocol):
    """The interface of an architecture; a subclass overrides what differs."""

    divisible: ClassVar[Mapping[str, tuple[str, ...]]] = {"fsdp": ("d_model",)}
    """Axis of a mesh -> fields that its number of devices must divide."""

    unused: ClassVar[tuple[str, ...]] = ()
    """Fields of ModelConfig that mean nothing to the architecture: other values than their defaults
    are refused."""

    def build(self, config: ModelConfig) -> nn.Module:
        """Build the model."""
        ...

    def check(self, config: ModelConfig) -> None:
        """Raise UserError for values that this architecture cannot have."""
        for name in self.unused:
            if (value := getattr(config, name)) != getattr(ModelConfig, name):
                raise UserError(
                    f"{name} {value!r} has no meaning for architecture {config.architecture}: "
                    "leave it out"
                )

    def max_length(self, config: ModelConfig) -> int | None:
        """Return the most tokens of a side, EOS included; None has no limit."""
        return None

    def estimate_parameters(self, config: ModelConfig) -> int:
        """Estimate the entries of all matrices, by arithmetic alone, before anything is built.

        `inspect` prints the exact count.
        """
        return config.vocab_size * config.d_model

    def estimate_activations(self, config: ModelConfig, source: int, target: int) -> int:
        """Estimate how many numbers a step keeps for a sentence.

        Where that is a small part of the memory, the first step starts before the step on the
        largest batch has been compiled (`training.memory.check_step_memory`).

        Args:
            config: The model's configuration.
            source: S, tokens of the source.
            target: T, tokens of the target.
        """
        read = config.encoder_depth * source + config.decoder_depth * target
        return target * config.target_size + config.d_model * read

    def attention(
        self, config: ModelConfig, collected: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Extract the weights of one pair from what `mutable=["attention"]` collected.

        Args:
            config: The model's configuration.
            collected: The collection "attention" of a batch of one sentence.

        Returns:
            Encoder [L, H, S, S], decoder [L, H, T, T] and cross [L, H, T, S], float32.
        """
        raise UserError(f"architecture {config.architecture} has no attention to show")


# Numbers that a training step keeps for each attention weight. These and the factors below are
# fitted to what XLA reports of 18 steps on a CPU (jax 0.10.2, 32 to 1,024 tokens, d_model 128 and
# 512), with 0.6 numbers for each parameter besides: none is off by more than 6%. Batches of one
# sentence, for which `compact` keeps about twice as many, and `remat`, which keeps fewer, are left
# out: the numbers rank the shapes of a run, and tell a step that needs little of the memory.
_KEPT_OF_A_WEIGHT = {"definition": 3.25, "compact": 1.1, "blockwise": 0.25, "cudnn": 0.25}
# Keys of a query beyond which the functions in blocks keep no more.
_MOST_KEYS = {"blockwise": 1024, "cudnn": 1024}


# Fields of what only a Transformer has; heads and d_ff are left out, which every preset sets.
_OF_A_TRANSFORMER = (
    "d_k", "d_v", "activation", "attention_dropout", "activation_dropout", "norm_placement",
    "normalization", "residual_connections", "norm_epsilon", "attention_radius",
    "cross_attention_radius", "remat",
)  # fmt: skip
_OF_CONVOLUTIONS = ("kernel_width", "dilation_base")


class _EncoderDecoderFamily(Family):
    """What all encoder-decoders share: their tables."""

    def check(self, config):
        super().check(config)
        if config.target_vocab_size is not None and config.tied_embeddings == "all":
            raise UserError(
                f"tied_embeddings {config.tied_embeddings!r} is one table for both sides, which "
                "have separate vocabularies: choose decoder or none"
            )

    def max_length(self, config):
        if config.position_encoding != "learned":
            return None
        return config.max_positions - config.first_position


class TransformerFamily(_EncoderDecoderFamily):
    """The paper's architecture."""

    divisible: ClassVar = {"fsdp": ("d_model",), "tensor": ("num_heads", "d_ff")}
    unused = _OF_CONVOLUTIONS

    def build(self, config):
        return Transformer(config)

    def estimate_parameters(self, config):
        width, heads = config.d_model, config.num_heads * (config.key_size + config.value_size)
        layers = (config.encoder_depth + config.decoder_depth) * 2 * width * config.d_ff
        attentions = config.encoder_depth + 2 * config.decoder_depth
        return layers + attentions * 2 * width * heads + config.vocab_size * width

    def estimate_activations(self, config, source, target):
        kernels = config.chosen_kernels
        formed = "definition" if config.needs_attention_weights else kernels
        encoder, decoder = config.encoder_depth, config.decoder_depth
        most = _MOST_KEYS.get(formed, source + target)
        weights = decoder * target * min(source, most)
        for length, blocks, depth in ((source, 3, encoder), (target, 2, decoder)):
            in_window = config.attention_radius is not None and formed != "definition"
            seen = blocks * config.attention_radius if in_window else length
            weights += depth * length * min(length, seen, most)
        layers = (
            config.d_model * (20 * encoder * source + 28 * decoder * target)
            + 2.25 * config.d_ff * (encoder * source + decoder * target)
            + _KEPT_OF_A_WEIGHT[formed] * config.num_heads * weights
        )
        at_once = 1 if kernels == "definition" else 16  # as `logits_block` divides a batch
        logits = 1.5 * target * config.target_size / at_once
        return round(layers + logits)

    def attention(self, config, collected):
        depths = {"encoder": config.encoder_depth, "decoder": config.decoder_depth}

        def weights(stack: str, part: str) -> np.ndarray:
            layers = (collected[f"{stack}_{i}"][part] for i in range(depths[stack]))
            return np.stack([np.asarray(layer["weights"][0], np.float32) for layer in layers])

        return (
            weights("encoder", "self_attention"),
            weights("decoder", "self_attention"),
            weights("decoder", "cross_attention"),
        )


class _AlignedFamily(_EncoderDecoderFamily):
    """What models with an `Alignment` share."""

    divisible: ClassVar = {"fsdp": ("d_model",), "tensor": ()}

    def estimate_scores(self, config: ModelConfig, source: int, target: int) -> int:
        """Estimate how many numbers an alignment keeps for a sentence."""
        width = config.d_model if config.attention_score == "additive" else 1
        return 2 * target * source * width

    def attention(self, config, collected):
        layers = [np.asarray(each, np.float32) for each in collected["alignment"]["weights"]]
        # Steps of a loop stand on an axis of their own.
        cross = np.stack([each.reshape(1, -1, each.shape[-1]) for each in layers])
        encoder, decoder = (np.zeros((0, 1, size, size), np.float32) for size in cross.shape[:1:-1])
        return encoder, decoder, cross


class RecurrentFamily(_AlignedFamily):
    """Elman's network and the LSTM."""

    unused = (
        *_OF_A_TRANSFORMER, "position_encoding", "max_positions", "first_position",
        *_OF_CONVOLUTIONS,
    )  # fmt: skip

    def build(self, config):
        return RecurrentModel(config)

    def estimate_parameters(self, config):
        gates = 4 if config.architecture == "lstm" else 1
        # In the encoder two cells of width / 2 that read width, in the decoder one that reads twice
        # the width, and what makes its first state; then the readout and the scores.
        encoder, decoder = config.encoder_depth, config.decoder_depth
        matrices = gates * (1.5 * encoder + 3 * decoder) + decoder + 2
        matrices += 2 if config.attention_score == "additive" else 0
        return round(matrices * config.d_model**2) + config.vocab_size * config.d_model

    def estimate_activations(self, config, source, target):
        gates = 4 if config.architecture == "lstm" else 1
        encoder, decoder = config.encoder_depth * source, config.decoder_depth * target
        layers = config.d_model * ((2 * gates + 4) * encoder + (3 * gates + 6) * decoder)
        compared = self.estimate_scores(config, source, target)
        return layers + compared + target * config.target_size


class ConvolutionalFamily(_AlignedFamily):
    """Stacked convolutions with gates."""

    unused = _OF_A_TRANSFORMER

    def build(self, config):
        return ConvolutionalModel(config)

    def check(self, config):
        super().check(config)
        if config.kernel_width < 2:
            raise UserError(
                f"kernel_width {config.kernel_width}: a convolution of one token reads no other: "
                "choose 2 or more"
            )

    def estimate_parameters(self, config):
        kernels = 2 * config.kernel_width * (config.encoder_depth + config.decoder_depth)
        matrices = kernels + 2 * config.decoder_depth
        return matrices * config.d_model**2 + config.vocab_size * config.d_model

    def estimate_activations(self, config, source, target):
        read = config.encoder_depth * source + config.decoder_depth * target
        layers = config.d_model * (config.kernel_width + 6) * read
        layers += config.decoder_depth * self.estimate_scores(config, source, target)
        return layers + target * config.target_size


FAMILIES: dict[str, Family] = {
    "transformer": TransformerFamily(),
    "rnn": RecurrentFamily(),
    "lstm": RecurrentFamily(),
    "convolutional": ConvolutionalFamily(),
}


def family_of(config: ModelConfig) -> Family:
    """Return the family that `config.architecture` names; UserError where there is none."""
    name = config.architecture
    if name not in FAMILIES:
        raise UserError(f"architecture {name!r} is unknown; {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def build_model(config: ModelConfig) -> nn.Module:
    """Build the model of a configuration.

    >>> build_model(ModelConfig(d_model=8, num_heads=2)).config.d_model
    8
    """
    return family_of(config).build(config)
