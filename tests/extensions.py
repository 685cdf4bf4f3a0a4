"""Architectures and tasks that the package knows nothing of: an LSTM, tagging, language models."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax.data.pairing import Pairing
from transformer_jax.evaluation.bleu import Score
from transformer_jax.models.dimensions import Module, name_axes
from transformer_jax.models.families import FAMILIES, Family
from transformer_jax.models.transformer import Decoder, Encoder
from transformer_jax.tasks import TASKS, Task, TranslationTask


class Cache(NamedTuple):
    history: tuple


class Lstm(Module):
    """The last state of one LSTM is the first of another; without attention."""

    config: object

    def setup(self):
        width, rows = self.config.d_model, self.config.vocab_size
        normal, zeros = nn.initializers.normal(0.3), nn.initializers.zeros
        self.table = self.param("table", name_axes(normal, "V", "D"), (rows, width))
        shape = (2 * width, 4 * width)
        self.reader, self.writer = (
            (
                self.param(f"{name}_kernel", name_axes(normal, "D", "F"), shape),
                self.param(f"{name}_bias", name_axes(zeros, "F"), shape[1:]),
            )
            for name in ("reader", "writer")
        )

    @staticmethod
    def cell(weights, carry, x):
        kernel, bias = weights
        gates = jnp.concatenate([x, carry[1]], axis=-1) @ kernel + bias[None]
        enter, keep, leave, new = jnp.split(gates, 4, axis=-1)
        memory = nn.sigmoid(keep + 1) * carry[0] + nn.sigmoid(enter) * jnp.tanh(new)
        return memory, nn.sigmoid(leave) * jnp.tanh(memory)

    def run(self, weights, carry, tokens, kept):
        """[B, T] -> (the state after the last token that is `kept`, outputs [B, T, D])."""

        def step(carry, each):
            x, here = each
            new = self.cell(weights, carry, x)
            carry = tuple(jnp.where(here[:, None], n, o) for n, o in zip(new, carry))
            return carry, new[1]

        xs = self.table[tokens].swapaxes(0, 1), kept.T
        carry, outputs = jax.lax.scan(step, carry, xs)
        return carry, outputs.swapaxes(0, 1)

    def read(self, source):
        empty = jnp.zeros((len(source), self.config.d_model))
        return self.run(self.reader, (empty, empty), source, source != 0)[0]

    def features(self, source, target, rows=None):
        shifted = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
        return self.run(self.writer, self.read(source), shifted, target != 0)[1]

    def project(self, features):
        return features @ self.table.T

    def __call__(self, source, target, rows=None):
        return self.project(self.features(source, target, rows))

    def init_cache(self, source, rows_per_sentence, places):
        carry = self.read(source)
        return Cache(jax.tree.map(lambda leaf: jnp.repeat(leaf, rows_per_sentence, 0), carry))

    def places_taken(self, cache):
        return jnp.array(0)

    def resize_cache(self, cache, source_length, places):
        return cache

    def decode_step(self, cache, tokens):
        carry = self.cell(self.writer, cache.history, self.table[tokens])
        return Cache(carry), carry[1][:, None]


class LstmFamily(Family):
    def build(self, config):
        return Lstm(config)


class Tagger(Module):
    """The encoder alone, and a class for each of its positions."""

    config: object

    def setup(self):
        config = self.config
        self.encoder = Encoder(config)
        normal = nn.initializers.normal(0.3)
        shape = (config.target_size, config.d_model)
        self.classes = self.param("classes", name_axes(normal, "V", "D"), shape)

    def features(self, source, target, rows=None):
        return self.encoder(source, rows)

    def project(self, features):
        return features @ self.classes.T

    def __call__(self, source, target, rows=None):
        return self.project(self.features(source, target, rows))


class TaggerFamily(Family):
    def build(self, config):
        return Tagger(config)


class Tagging(Task):
    """A tag for every word; in training one word in sixteen is unknown."""

    pairing = Pairing(joint=False, source_ends=False, target_ends=False, aligned=True)

    def corrupt(self, batch, draw):
        hidden = (draw(batch.source.shape[1]) >> np.uint64(60)) == 0
        return batch._replace(source=np.where(hidden & (batch.source > 3), 2, batch.source))

    def scores(self, predictions, references, vocabulary, language):
        pairs = [
            (a, b)
            for line, wanted in zip(predictions, references)
            for a, b in zip(line.split(), wanted.split(), strict=True)
        ]
        right = 100 * sum(a == b for a, b in pairs) / len(pairs)
        return [Score("accuracy", right, f"{len(pairs)} words")]


class LanguageModel(Module):
    """The decoder alone, which reads no source."""

    config: object

    def setup(self):
        self.decoder = Decoder(self.config, cross=False)

    def features(self, source, target, rows=None):
        return self.decoder.features(target, rows=rows)

    def project(self, features):
        return self.decoder.embed.logits(features)

    def __call__(self, source, target, rows=None):
        return self.project(self.features(source, target, rows))


class LanguageModelFamily(Family):
    def build(self, config):
        return LanguageModel(config)

    def max_length(self, config):
        return 50


class LanguageModelling(Task):
    """Text alone; here class 0 would count, and what is ignored has a number of its own."""

    pairing = Pairing(reads_source=False, ignored=-1)


class Dictionary(TranslationTask):
    """Translation with a vocabulary a side."""

    pairing = Pairing(joint=False)


FAMILIES |= {"last state": LstmFamily(), "tagger": TaggerFamily(), "decoder": LanguageModelFamily()}
TASKS |= {
    "tagging": Tagging(), "language modelling": LanguageModelling(), "dictionary": Dictionary(),
}  # fmt: skip
