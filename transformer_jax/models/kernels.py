"""The functions that a model computes with, by the name that ModelConfig.kernels gives."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.functional.attention import dot_product_attention
from transformer_jax.functional.blockwise import blockwise_attention
from transformer_jax.functional.embedding import unembed
from transformer_jax.functional.kernels import (
    PRODUCT,
    compact_attention,
    compact_linear,
    compact_unembed,
    cudnn_attention,
)
from transformer_jax.functional.linear import linear

__all__ = [
    "KERNELS",
    "AttentionFunction",
    "Kernels",
    "kernels_of",
    "logits_block",
    "rematerialised",
]

# (query, key, value, mask, *, scale), as `functional.dot_product_attention`.
AttentionFunction = Callable[..., jax.Array]


class Kernels(NamedTuple):
    """Functions of equal values, each as the one that it is named after in `functional`.

    Attributes:
        attention: As `dot_product_attention`.
        linear: As `compact_linear`.
        unembed: As `unembed`.
    """

    attention: AttentionFunction
    linear: Callable[[jax.Array, Sequence[jax.Array], Sequence[jax.Array]], tuple[jax.Array, ...]]
    unembed: Callable[[jax.Array, jax.Array], jax.Array]


def _linear_one_by_one(x, kernels, biases):
    return tuple(linear(x, kernel, bias) for kernel, bias in zip(kernels, biases))


KERNELS = {
    "definition": Kernels(dot_product_attention, _linear_one_by_one, unembed),
    "compact": Kernels(compact_attention, compact_linear, compact_unembed),
    "blockwise": Kernels(blockwise_attention, compact_linear, compact_unembed),
    "cudnn": Kernels(cudnn_attention, compact_linear, compact_unembed),
}


def kernels_of(config: ModelConfig) -> Kernels:
    """Return the kernels of a model's configuration.

    >>> kernels_of(ModelConfig(kernels="definition")).attention.__name__
    'dot_product_attention'
    """
    return KERNELS[config.chosen_kernels]


def logits_block(config: ModelConfig, block: int | None, positions: int) -> int | None:
    """Return how many positions have logits at once.

    That is `block`, or where it is None, and kernels are not the definition, as many as divide a
    batch into blocks of 256 at most, but into 16 blocks at most.

    Args:
        config: The model's configuration.
        block: What the optimizer's configuration says.
        positions: Positions in a batch.

    >>> logits_block(ModelConfig(), None, 2100), logits_block(ModelConfig(), None, 25_000)
    (234, 1563)
    """
    if block is not None or config.chosen_kernels == "definition":
        return block
    # As equal as can be, so that the last is not mostly filling.
    positions = max(positions, 1)
    return -(-positions // min(16, -(-positions // 256)))


def rematerialised(layer: Any, config: ModelConfig) -> Any:
    """Make of a layer's class one that keeps for the backward pass what `config.remat` says.

    >>> rematerialised(nn.Dense, ModelConfig()) is nn.Dense
    True
    """
    if config.remat == "none":
        return layer
    policies = jax.checkpoint_policies
    products = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable,
        policies.save_only_these_names(PRODUCT),  # a function with a gradient of its own hides them
    )
    return nn.remat(layer, policy=products if config.remat == "dots" else None)
