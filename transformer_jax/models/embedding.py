"""Tokens to vectors and vectors to logits (sections 3.4 and 3.5): tables, positions, dropout."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.functional.embedding import embed
from transformer_jax.functional.positions import learned_positions, sinusoids, sinusoids_at
from transformer_jax.models.dimensions import FLOAT32, name_axes
from transformer_jax.models.kernels import kernels_of
from transformer_jax.models.layers import DropoutModule

__all__ = ["TABLES", "Embedded", "Embedding", "shift_right"]

# ModelConfig.tied_embeddings -> the parameter that holds the table of source, target and output.
TABLES = {
    "all": dict.fromkeys(("source", "target", "output"), "embedding"),
    "decoder": {
        "source": "source_embedding",
        "target": "target_embedding",
        "output": "target_embedding",
    },
    "none": {name: f"{name}_embedding" for name in ("source", "target", "output")},
}


class Embedding(DropoutModule):
    """The embedding tables of those `uses` that a model has, shared as `config.tied_embeddings`
    says.

    Positions are added, and dropout is applied, here and nowhere else.
    """

    uses: tuple[str, ...] = ("source", "target", "output")

    def setup(self):
        config = self.config
        sizes = {
            "source": config.vocab_size,
            "target": config.target_size,
            "output": config.target_size,
        }
        normal = nn.initializers.normal(config.d_model**-0.5)
        made: dict[str, jax.Array] = {}
        for use in self.uses:
            name = TABLES[config.tied_embeddings][use]
            if name not in made:
                table = name_axes(normal, "V", "D")
                made[name] = self.param(name, table, (sizes[use], config.d_model), FLOAT32)
        self.tables = {use: made[TABLES[config.tied_embeddings][use]] for use in self.uses}
        if config.output_bias and "output" in self.uses:
            zeros = name_axes(nn.initializers.zeros, "V")
            self.output_bias = self.param("output_bias", zeros, (config.target_size,), FLOAT32)
        if config.position_encoding == "learned":
            shape = (config.max_positions, config.d_model)
            table = name_axes(normal, "P", "D")
            self.position_table = self.param("position_table", table, shape, FLOAT32)

    def source(self, tokens, rows=None, places=None):
        """tokens [B, S] -> [B, S, D]; `places` [B, S] are their positions, by default in order."""
        return self._side("source", tokens, rows, places)

    def target(self, tokens, rows=None, places=None):
        """The same of tokens that a decoder reads."""
        return self._side("target", tokens, rows, places)

    def target_at(self, tokens, positions):
        """tokens [B, W], each sentence's at a position [B], without dropout -> [B, W, D]."""
        config, rows = self.config, None
        positions = positions + config.first_position
        if config.position_encoding == "learned":
            rows = self.position_table.at[positions].get(mode="clip")[:, None]
        elif config.position_encoding == "index":
            rows = self._index(positions)[:, None]
        elif config.position_encoding != "none":
            rows = sinusoids_at(positions, config.d_model, config.position_encoding)[:, None]
        return self._sum("target", tokens, rows)

    def logits(self, x):
        """x [B, T, D] -> [B, T, V], float32."""
        logits = kernels_of(self.config).unembed(x, self.tables["output"].astype(self.dtype))
        return logits + self.output_bias[None, None] if self.config.output_bias else logits

    def _side(self, use, tokens, rows, places):
        positions = self._positions(tokens.shape[1])
        if positions is not None:
            positions = positions[None] if places is None else positions[places]
        return self.apply_dropout(self._sum(use, tokens, positions), self.config.dropout, rows)

    def _sum(self, use, tokens, positions):
        """Embedding + position, rounded once: a sum over tokens is the gradient of both tables."""
        x = embed(tokens, self.tables[use], scaled=self.config.scale_embeddings)
        return (x if positions is None else x + positions).astype(self.dtype)

    def _index(self, positions):
        """positions [T] -> [T, D]: the number in the first feature, since layer norm would take it
        away from all of them."""
        is_first = (jnp.arange(self.config.d_model) == 0)[None]
        return jnp.where(is_first, positions.astype(FLOAT32)[:, None], 0)

    def _positions(self, length):
        config, first = self.config, self.config.first_position
        if config.position_encoding == "none":
            return None
        if config.position_encoding == "learned":
            return learned_positions(self.position_table, length + first)[first:]
        if config.position_encoding == "index":
            return self._index(jnp.arange(first, length + first))
        return sinusoids(length + first, config.d_model, config.position_encoding)[first:]


class Embedded(DropoutModule):
    """What reads tables: those of a model whose part it is, or its own where it stands alone."""

    embedding: Embedding | None = None

    @nn.nowrap
    def set_up_embedding(self, config: ModelConfig, uses: tuple[str, ...]) -> None:
        """Make `embed`, within `setup`.

        Args:
            config: Of tables that are made.
            uses: As in `Embedding`.
        """
        self.embed = self.embedding or Embedding(config, uses)
        if self.embedding is None:
            nn.share_scope(self, self.embed)


def shift_right(tokens: jax.Array, start_id: int) -> jax.Array:
    """Put the start symbol before tokens [B, T], of which the last falls off.

    >>> shift_right(jnp.array([[5, 6, 1]]), 0)
    Array([[0, 5, 6]], dtype=int32)
    """
    start = jnp.full_like(tokens[:, :1], start_id)
    return jnp.concatenate([start, tokens[:, :-1]], axis=1)
