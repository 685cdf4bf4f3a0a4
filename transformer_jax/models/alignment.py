"""Attention of a decoder that is no Transformer: one head, and the encoder's states as they are."""

from typing import Any, NamedTuple

import jax

from transformer_jax.functional import attention as att
from transformer_jax.functional.masking import padding_mask
from transformer_jax.models.cache import resize_axis
from transformer_jax.models.dimensions import FLOAT32, name_axes
from transformer_jax.models.embedding import Embedded, shift_right
from transformer_jax.models.layers import DropoutModule, Linear, glorot_uniform, weights_of

__all__ = ["AlignedDecoder", "Alignment", "Annotations"]


class Annotations(NamedTuple):
    """What a decoder attends to.

    Attributes:
        keys: [B, S, K], what a state is compared with.
        values: [B, S, D], what is averaged.
        mask: [B, 1, 1, S], False at padding.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


class Alignment(DropoutModule):
    """Averages of the encoder's states, weighted by their score with a state of the decoder.

    `config.attention_score` additive is v.tanh(W s + U h) of Bahdanau et al. (2015, arXiv
    1409.0473), with biases; unscaled is the dot product s.h of Luong et al. (2015, arXiv
    1508.04025), and scaled divides that by sqrt(D). `mutable=["attention"]` collects the weights of
    each call, [B, T, S], under the module's path.

    >>> import jax.numpy as jnp
    >>> from transformer_jax import ModelConfig
    >>> states, source = jnp.ones((2, 5, 8)), jnp.ones((2, 5), jnp.int32)
    >>> alignment = Alignment(ModelConfig(d_model=8, num_heads=1))
    >>> annotations = alignment.apply({}, states, states, source, method="annotate")
    >>> alignment.apply({}, jnp.ones((2, 3, 8)), annotations).shape
    (2, 3, 8)
    """

    def setup(self):
        config, width = self.config, self.config.d_model
        self.additive = config.attention_score == "additive"
        if self.additive:
            self.query = Linear(width, width, ("D", "K"), config)
            self.key = Linear(width, width, ("D", "K"), config)
            initialise = name_axes(glorot_uniform(1), "K", "H")
            self.vector = self.param("vector", initialise, (width, 1), FLOAT32)

    def annotate(self, states, values, source) -> Annotations:
        """Prepare what `__call__` attends to.

        Args:
            states: The encoder's states that are compared, [B, S, D].
            values: Those that are averaged, [B, S, D].
            source: Token ids [B, S].
        """
        keys = self.key(states) if self.additive else states
        return Annotations(keys, values, padding_mask(source))

    def __call__(self, states, annotations: Annotations):
        """states of the decoder [B, T, D] -> weighted averages [B, T, D]."""
        query = self.query(states) if self.additive else states
        query, keys = query[:, :, None], annotations.keys[:, :, None]
        vector = self.vector if self.additive else None
        weights = weights_of(self.config, query, keys, vector, annotations.mask)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "weights", weights[:, 0])
        return att.apply_attention(weights, annotations.values[:, :, None])[:, :, 0]


class AlignedDecoder(Embedded):
    """What decoders with an `Alignment` share; a subclass makes `embed` and `alignment`.

    Without `cross` it reads no source: a language model of the target.
    """

    cross: bool = True

    def __call__(self, target, memory=None, source=None, rows=None):
        """Compute logits [B, T, V]; arguments as in `features`."""
        return self.project(self.features(target, memory, source, rows))

    def project(self, features):
        """Turn features [B, T, D] into logits [B, T, V] in float32."""
        return self.embed.logits(features)

    def features(self, target, memory=None, source=None, rows=None) -> Any:
        """Compute what logits are made of, [B, T, D]; features[:, t] predicts target[:, t].

        Args:
            target: Token ids [B, T], unshifted, ending in EOS; position t sees target[:, :t].
            memory: What the encoder gives; None without `cross`.
            source: Token ids [B, S]; None without `cross`.
            rows: As in `Encoder`.
        """
        raise NotImplementedError

    def embed_shifted(self, target, rows):
        """Embed what is read before each token of target [B, T], giving [B, T, D]."""
        return self.embed.target(shift_right(target, self.config.start_id), rows)

    def places_taken(self, cache: Any):
        """No place is taken: what a hypothesis needs does not grow."""
        return 0

    def resize_cache(self, cache: Any, source_length: int, places: int):
        """Give the source of a state another length; what is cut off must be padding.

        Args:
            cache: The state.
            source_length: S.
            places: Not needed.
        """
        if cache.annotations is None:
            return cache
        keys, values, mask = cache.annotations
        keys, values = (resize_axis(x, source_length, 1) for x in (keys, values))
        mask = resize_axis(mask, source_length, 3)
        return cache._replace(annotations=Annotations(keys, values, mask))
