"""Pure functions of arrays, one formula each. Imports jax only; usable without the rest."""

from transformer_jax.functional.attention import (
    additive_attention_weights,
    apply_attention,
    attention_weights,
    cached_attention,
    dot_product_attention,
    masked_softmax,
    merge_heads,
    split_heads,
)
from transformer_jax.functional.blockwise import blockwise_attention
from transformer_jax.functional.convolution import (
    convolution,
    gated_linear_unit,
    receptive_field,
)
from transformer_jax.functional.dropout import dropout
from transformer_jax.functional.embedding import embed, unembed
from transformer_jax.functional.feed_forward import feed_forward
from transformer_jax.functional.kernels import (
    compact_attention,
    compact_linear,
    compact_unembed,
    cudnn_attention,
)
from transformer_jax.functional.keys import fold_in_rows, row_keys, seed_key, typed_key
from transformer_jax.functional.linear import linear
from transformer_jax.functional.local import local_attention
from transformer_jax.functional.losses import (
    label_smoothed_cross_entropy,
    map_blocks,
    sum_blocks,
    token_log_probs,
)
from transformer_jax.functional.masking import (
    causal_mask,
    combine_masks,
    local_window_mask,
    padding_mask,
    segment_mask,
)
from transformer_jax.functional.normalization import (
    batch_norm,
    batch_statistics,
    layer_norm,
    running_statistics,
)
from transformer_jax.functional.positions import (
    learned_positions,
    segment_positions,
    sinusoids,
    sinusoids_at,
)
from transformer_jax.functional.rows import row_axes

__all__ = [
    "additive_attention_weights",
    "apply_attention",
    "attention_weights",
    "batch_norm",
    "batch_statistics",
    "blockwise_attention",
    "cached_attention",
    "causal_mask",
    "combine_masks",
    "compact_attention",
    "compact_linear",
    "compact_unembed",
    "convolution",
    "cudnn_attention",
    "dot_product_attention",
    "dropout",
    "embed",
    "feed_forward",
    "fold_in_rows",
    "gated_linear_unit",
    "label_smoothed_cross_entropy",
    "layer_norm",
    "learned_positions",
    "linear",
    "local_attention",
    "local_window_mask",
    "map_blocks",
    "masked_softmax",
    "merge_heads",
    "padding_mask",
    "receptive_field",
    "row_axes",
    "row_keys",
    "running_statistics",
    "seed_key",
    "segment_mask",
    "segment_positions",
    "sinusoids",
    "sinusoids_at",
    "split_heads",
    "sum_blocks",
    "token_log_probs",
    "typed_key",
    "unembed",
]
