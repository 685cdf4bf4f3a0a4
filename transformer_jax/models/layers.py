"""Encoder and decoder layers (section 3.1) with the parameters they are made of.

Kernels are 2-D and initialised as in tensor2tensor: Glorot uniform over the matrix as it
was fused_fan_out there, that is [D, 3D] for self-attention's query, key and value, and [D, 2D] for
cross-attention's key and value, which gives a smaller limit than three separate matrices.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.functional import attention as att
from transformer_jax.functional.dropout import dropout
from transformer_jax.functional.feed_forward import feed_forward
from transformer_jax.functional.keys import fold_in_rows
from transformer_jax.functional.local import local_attention
from transformer_jax.functional.masking import combine_masks, local_window_mask
from transformer_jax.models.dimensions import FLOAT32, Module, name_axes
from transformer_jax.models.kernels import AttentionFunction, kernels_of
from transformer_jax.models.norms import make_norm

__all__ = ["DecoderLayer", "EncoderLayer", "FeedForward", "MultiHeadAttention"]

KeysValues = tuple[jax.Array, jax.Array]


def glorot_uniform(fan_out: int):
    """Glorot uniform for a [rows, columns] kernel cut out of a matrix of `fan_out`."""

    def initialise(rng, shape, dtype):
        limit = math.sqrt(6.0 / (shape[0] + fan_out))
        return jax.random.uniform(rng, shape, dtype, -limit, limit)

    return initialise


class DropoutModule(Module):
    """A module that applies dropout exactly when `apply` was given a 'dropout' rng.

    With `rows` [B], a number for each row of the batch, a row's dropout mask depends on its number
    alone, neither on the other rows nor on the device that holds it. Without `rows` the mask is
    drawn for the batch as a whole.
    """

    config: ModelConfig

    def apply_dropout(self, x, rate: float, rows=None):
        """Apply dropout where a rng was given.

        Args:
            x: [B, ...].
            rate: Probability that an entry becomes 0.
            rows: Numbers of the rows [B], or None.
        """
        return dropout(x, rate, self.dropout_rng(rate, rows))

    def dropout_rng(self, rate: float, rows=None):
        """Make the key, or the key of each row, of one application of dropout; None applies none.

        Args:
            rate: Probability that an entry becomes 0.
            rows: Numbers of the rows [B], or None.
        """
        if rate == 0 or not self.has_rng("dropout"):
            return None
        rng = self.make_rng("dropout")
        return rng if rows is None else fold_in_rows(rng, rows)

    @property
    def dtype(self):
        return jnp.dtype(self.config.dtype)


class Linear(Module):
    """x W + b with a 2-D kernel, whose dimensions `letters` name."""

    features: int
    fan_out: int
    letters: tuple[str, str]
    config: ModelConfig

    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        return kernels_of(self.config).linear(x, [kernel], [bias])[0]

    @nn.compact
    def parameters(self, width: int):
        """The kernel [width, F], in the dtype of the computation, and the bias [F]."""
        shape = (width, self.features)
        glorot, zeros = glorot_uniform(self.fan_out), nn.initializers.zeros
        kernel = self.param("kernel", name_axes(glorot, *self.letters), shape, FLOAT32)
        bias = self.param("bias", name_axes(zeros, self.letters[1]), (self.features,), FLOAT32)
        return kernel.astype(jnp.dtype(self.config.dtype)), bias


def project(x, *parts: Linear):
    """Apply several `Linear` to one x, with other kernels than the definition in one product."""
    if len(parts) == 1 or parts[0].config.chosen_kernels == "definition":
        return [part(x) for part in parts]
    kernels, biases = zip(*(part.parameters(x.shape[-1]) for part in parts))
    return kernels_of(parts[0].config).linear(x, kernels, biases)


class MultiHeadAttention(DropoutModule):
    """Section 3.2.2: of x on itself, or on keys and values that `keys_values` made.

    The two are apart so that a decoder can cache keys and values.
    `mutable=["attention"]` collects the weights, [B, H, T, S], under the module's path; only then,
    for dropout and for additive scores are they formed whatever the kernels are.
    """

    cross: bool
    attention_fn: AttentionFunction | None = None
    causal: bool = False  # asked only where attention has a radius; otherwise the mask says it

    def setup(self):
        config = self.config
        keys = config.num_heads * config.key_size
        values = config.num_heads * config.value_size
        fused_fan_out = keys + values if self.cross else 2 * keys + values
        self.query = Linear(keys, keys if self.cross else fused_fan_out, ("D", "HK"), config)
        self.key = Linear(keys, fused_fan_out, ("D", "HK"), config)
        self.value = Linear(values, fused_fan_out, ("D", "HDv"), config)
        self.output = Linear(config.d_model, config.d_model, ("HDv", "D"), config)
        needs_weights = config.needs_attention_weights
        if self.attention_fn is not None and needs_weights is not None:
            raise ValueError(
                f"{needs_weights} needs attention weights, which an attention_fn does not give: "
                "leave one of the two out"
            )
        if config.attention_score == "additive":
            # A head's vector is a matrix of key_size rows and one column.
            shape = (config.key_size, config.num_heads)
            initialise = name_axes(glorot_uniform(1), "K", "H")
            self.vector = self.param("vector", initialise, shape, FLOAT32)

    def queries(self, x) -> jax.Array:
        """[B, T, D] -> [B, T, H, K]."""
        return self._project(x, self.query)[0]

    def queries_keys_values(self, x) -> tuple[jax.Array, KeysValues]:
        """What `queries` and `keys_values` make of one x, in one product where they are as wide."""
        if self.config.chosen_kernels == "definition":
            # In this order: the gradient of x is a sum, and an old run goes on to the last bit.
            keys_values = self.keys_values(x)
            return self.queries(x), keys_values
        query, keys, values = self._project(x, self.query, self.key, self.value)
        return query, (keys, values)

    def keys_values(self, x) -> KeysValues:
        """[B, S, D] -> ([B, S, H, K], [B, S, H, Dv])."""
        keys, values = self._project(x, self.key, self.value)
        return keys, values

    def __call__(self, x, keys_values: KeysValues | None, mask, rows=None):
        """x [B, T, D], mask broadcastable to [B, H, T, S] -> [B, T, D]; None attends to x."""
        if keys_values is None:
            query, (keys, values) = self.queries_keys_values(x)
        else:
            query, (keys, values) = self.queries(x), keys_values
        # `init` would return the weights among the variables.
        collected = self.is_mutable_collection("attention") and not self.is_initializing()
        rng = self.dropout_rng(self.config.attention_dropout, rows)
        formed = collected or rng is not None or self.config.attention_score == "additive"
        radius = None if self.cross else self.config.attention_radius
        in_blocks = not formed and self.config.chosen_kernels != "definition"
        if radius is not None and not in_blocks:
            mask = combine_masks(mask, local_window_mask(x.shape[1], radius, self.causal))
        if formed:
            weights = self._weights(query, keys, mask)
            if collected:
                keep_newest = {"reduce_fn": lambda _, new: new, "init_fn": tuple}
                self.sow("attention", "weights", weights, **keep_newest)
            weights = dropout(weights, self.config.attention_dropout, rng)
            found = att.apply_attention(weights, values)
        else:
            attend = self.attention_fn or kernels_of(self.config).attention
            if radius is not None and in_blocks:
                attend = functools.partial(
                    local_attention, radius=radius, causal=self.causal, attend=attend
                )
            found = attend(query, keys, values, mask, scale=self._scale)
        return self.output(att.merge_heads(found))

    def attend_to_cache(self, query, cache: KeysValues, mask):
        """query [B, T, H, K], cache as `functional.cached_attention` takes it -> [B, T, D].

        Without dropout, and without weights to collect.
        """
        if self.config.attention_score == "additive":
            keys, values = from_cache_layout(cache)
            weights = self._weights(query.astype(keys.dtype), keys, mask)
            found = att.apply_attention(weights, values).astype(query.dtype)
        else:
            found = att.cached_attention(query, *cache, mask, scale=self._scale)
        return self.output(att.merge_heads(found))

    @property
    def _scale(self):
        return scale_of(self.config)

    def _weights(self, query, keys, mask):
        vector = self.vector if self.config.attention_score == "additive" else None
        return weights_of(self.config, query, keys, vector, mask)

    def _project(self, x, *parts):
        return [att.split_heads(each, self.config.num_heads) for each in project(x, *parts)]


def scale_of(config: ModelConfig) -> float | None:
    """The factor of dot products, as `functional.attention_weights` takes it."""
    return 1.0 if config.attention_score == "unscaled" else None


def weights_of(config: ModelConfig, query, keys, vector, mask):
    """Attention weights [B, H, T, S] by the score that `config.attention_score` names.

    `vector` [K, H] is the parameter of an additive score, and None for others.
    """
    if vector is None:
        return att.attention_weights(query, keys, mask, scale=scale_of(config))
    vector = vector.astype(jnp.dtype(config.dtype)).T
    return att.additive_attention_weights(query, keys, vector, mask)


def to_cache_layout(keys_values: KeysValues) -> KeysValues:
    """([B, S, H, K], [B, S, H, Dv]) -> ([B, H, K, S], [B, H, S, Dv])."""
    keys, values = keys_values
    return jnp.transpose(keys, (0, 2, 3, 1)), jnp.swapaxes(values, 1, 2)


def from_cache_layout(cache: KeysValues) -> KeysValues:
    """Undo `to_cache_layout`."""
    keys, values = cache
    return jnp.transpose(keys, (0, 3, 1, 2)), jnp.swapaxes(values, 1, 2)


class FeedForward(DropoutModule):
    """Parameters around `functional.feed_forward`, section 3.3."""

    @nn.compact
    def __call__(self, x, rows=None):
        d_model, d_ff = self.config.d_model, self.config.d_ff
        zeros = nn.initializers.zeros
        glorot_in, glorot_out = glorot_uniform(d_ff), glorot_uniform(d_model)
        init_in, init_out = name_axes(glorot_in, "D", "F"), name_axes(glorot_out, "F", "D")
        kernel_in = self.param("kernel_in", init_in, (d_model, d_ff), FLOAT32)
        bias_in = self.param("bias_in", name_axes(zeros, "F"), (d_ff,), FLOAT32)
        kernel_out = self.param("kernel_out", init_out, (d_ff, d_model), FLOAT32)
        bias_out = self.param("bias_out", name_axes(zeros, "D"), (d_model,), FLOAT32)
        rate, compute = self.config.activation_dropout, kernels_of(self.config).linear
        return feed_forward(
            x,
            kernel_in.astype(self.dtype),
            bias_in,
            kernel_out.astype(self.dtype),
            bias_out,
            activation=self.config.activation,
            dropout_rate=rate,
            rng=self.dropout_rng(rate, rows),
            affine=lambda x, kernel, bias: compute(x, [kernel], [bias])[0],
        )


class ResidualBlock(DropoutModule):
    """What encoder and decoder layers share: a sub-layer with dropout, residual and norm."""

    attention_fn: AttentionFunction | None = None

    def residual(self, x, norm, sublayer, rows, counted):
        """post: Norm(x + Dropout(Sublayer(x))), section 5.4; pre: the norm comes first."""
        norm_first = self.config.norm_placement == "pre"
        found = sublayer(norm(x, counted) if norm_first else x)
        found = self.apply_dropout(found, self.config.dropout, rows)
        if self.config.residual_connections:
            found = x + found
        return found if norm_first else norm(found, counted)


class EncoderLayer(ResidualBlock):
    """Self-attention, then feed-forward."""

    def setup(self):
        self.self_attention = MultiHeadAttention(self.config, False, self.attention_fn)
        self.self_attention_norm = make_norm(self.config)
        self.feed_forward = FeedForward(self.config)
        self.feed_forward_norm = make_norm(self.config)

    def __call__(self, x, mask, rows=None, counted=None):
        """x [B, S, D] -> [B, S, D].

        `rows` [B] as in `DropoutModule`, `counted` [B, S] as in `BatchNorm`.
        """

        def attend_to_self(y):
            return self.self_attention(y, None, mask, rows)

        def feed_forward(y):
            return self.feed_forward(y, rows)

        x = self.residual(x, self.self_attention_norm, attend_to_self, rows, counted)
        return self.residual(x, self.feed_forward_norm, feed_forward, rows, counted)


class DecoderLayer(ResidualBlock):
    """Causal self-attention, attention to the encoder's output unless not `cross`, feed-forward."""

    cross: bool = True

    def setup(self):
        self.self_attention = MultiHeadAttention(self.config, False, self.attention_fn, True)
        self.self_attention_norm = make_norm(self.config)
        if self.cross:
            self.cross_attention = MultiHeadAttention(self.config, True, self.attention_fn)
            self.cross_attention_norm = make_norm(self.config)
        self.feed_forward = FeedForward(self.config)
        self.feed_forward_norm = make_norm(self.config)

    def __call__(self, x, self_mask, memory: Any, memory_mask, rows=None, counted=None):
        """Apply the layer to x [B, T, D], giving [B, T, D].

        Args:
            x: What the layer reads, [B, T, D].
            self_mask: Mask of self-attention.
            memory: This layer's keys and values of the source; None without `cross`.
            memory_mask: Mask of cross-attention.
            rows: [B] as in `DropoutModule`.
            counted: [B, T] as in `BatchNorm`.
        """

        def attend_to_self(y):
            return self.self_attention(y, None, self_mask, rows)

        def attend_to_memory(y):
            return self.cross_attention(y, memory, memory_mask, rows)

        return self._sublayers(x, attend_to_self, attend_to_memory, rows, counted)

    def decode_step(self, x, update_cache, self_mask, memory: Any, memory_mask):
        """Apply the layer to the newest token of W hypotheses of each sentence, x [B, W, D].

        Args:
            x: What the layer reads, [B, W, D].
            update_cache: Turns the keys and values of x into the cache of all tokens so far.
            self_mask: Mask of self-attention.
            memory: Cache of this layer's keys and values of the source; None without `cross`.
            memory_mask: Mask of cross-attention.
        """

        def attend_to_self(y):
            query, new = self.self_attention.queries_keys_values(y)
            return self.self_attention.attend_to_cache(query, update_cache(new), self_mask)

        def attend_to_memory(y):
            query = self.cross_attention.queries(y)
            return self.cross_attention.attend_to_cache(query, memory, memory_mask)

        return self._sublayers(x, attend_to_self, attend_to_memory)

    def _sublayers(self, x, attend_to_self, attend_to_memory, rows=None, counted=None):
        def feed_forward(y):
            return self.feed_forward(y, rows)

        x = self.residual(x, self.self_attention_norm, attend_to_self, rows, counted)
        if self.cross:
            x = self.residual(x, self.cross_attention_norm, attend_to_memory, rows, counted)
        return self.residual(x, self.feed_forward_norm, feed_forward, rows, counted)
