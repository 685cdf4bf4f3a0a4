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
other array has a row, or as many, for each sentence.
`FAMILIES` is open: put another family in under its name, which is what
`ModelConfig.architecture` says.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.models.transformer import Transformer

__all__ = ["FAMILIES", "Family", "build_model", "family_of"]


class Family(Protocol):
    """The interface of an architecture; a subclass overrides what differs."""

    divisible: ClassVar[Mapping[str, tuple[str, ...]]] = {"fsdp": ("d_model",)}
    """Axis of a mesh -> fields that its number of devices must divide."""

    def build(self, config: ModelConfig) -> nn.Module:
        """Build the model."""
        ...

    def check(self, config: ModelConfig) -> None:
        """Raise UserError for values that this architecture cannot have."""

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

        Args:
            config: The model's configuration.
            source: S, tokens of the source.
            target: T, tokens of the target.
        """
        layers = config.num_layers * config.d_model * (source + target)
        return target * config.target_size + layers

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
# 512), with 0.6 numbers for each parameter besides: none is off by more than 6%.
_KEPT_OF_A_WEIGHT = {"definition": 3.25, "compact": 1.1, "blockwise": 0.25, "cudnn": 0.25}


class TransformerFamily(Family):
    """The paper's architecture."""

    divisible: ClassVar = {"fsdp": ("d_model",), "tensor": ("num_heads", "d_ff")}

    def build(self, config):
        return Transformer(config)

    def check(self, config):
        if config.target_vocab_size is not None and config.tied_embeddings == "all":
            raise UserError(
                f"tied_embeddings {config.tied_embeddings!r} is one table for both sides, which "
                "have separate vocabularies: choose decoder or none"
            )

    def max_length(self, config):
        return config.max_positions if config.position_encoding == "learned" else None

    def estimate_parameters(self, config):
        width, heads = config.d_model, config.num_heads * (config.key_size + config.value_size)
        layers = config.num_layers * (4 * width * config.d_ff + 6 * width * heads)
        return layers + config.vocab_size * width

    def estimate_activations(self, config, source, target):
        kernels, tokens = config.chosen_kernels, source + target
        formed = "definition" if config.needs_attention_weights else kernels
        weights = source * source + target * target + target * source
        layer = (
            config.d_model * (20 * source + 28 * target)
            + 2.25 * config.d_ff * tokens
            + _KEPT_OF_A_WEIGHT[formed] * config.num_heads * weights
        )
        at_once = 1 if kernels == "definition" else 16  # as `logits_block` divides a batch
        logits = 1.5 * target * config.target_size / at_once
        return round(config.num_layers * layer + logits)

    def attention(self, config, collected):
        def weights(stack: str, part: str) -> np.ndarray:
            layers = (collected[f"{stack}_{i}"][part] for i in range(config.num_layers))
            return np.stack([np.asarray(layer["weights"][0], np.float32) for layer in layers])

        return (
            weights("encoder", "self_attention"),
            weights("decoder", "self_attention"),
            weights("decoder", "cross_attention"),
        )


FAMILIES: dict[str, Family] = {"transformer": TransformerFamily()}


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
