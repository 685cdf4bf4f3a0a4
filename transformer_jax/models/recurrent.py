"""Encoder-decoders of recurrent networks: Elman's, and the LSTM.

The encoder reads in both directions, in as many layers as the decoder; a state of the decoder's
first layer is compared with the encoder's before each step, and the average that is found so enters
all layers (Bahdanau et al. 2015, arXiv 1409.0473; Wu et al. 2016, arXiv 1609.08144). Of the first,
the decoder's first state comes from what both directions have read, and logits from tanh(W [s; c]),
as Luong et al. have it, in place of a maxout layer. The cells are Flax's: like torch's they have no
bias that opens the LSTM's forget gate at the beginning.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.models.alignment import AlignedDecoder, Alignment, Annotations
from transformer_jax.models.dimensions import FLOAT32, name_axes
from transformer_jax.models.embedding import Embedded, Embedding
from transformer_jax.models.encoder_decoder import EncoderDecoder
from transformer_jax.models.layers import Linear

__all__ = ["CELLS", "RecurrentDecoder", "RecurrentEncoder", "RecurrentModel", "RecurrentState"]

# Architecture -> the cell of Flax; its carry is h [N, D], or (c, h).
CELLS = {"rnn": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell}


class RecurrentState(NamedTuple):
    """State of step-by-step decoding: W hypotheses of each of B sentences.

    Attributes:
        history: The carry of each layer, arrays [B * W, D].
        annotations: What the decoder attends to; None without `cross`.
    """

    history: tuple[Any, ...]
    annotations: Annotations | None


def make_cell(config: ModelConfig, features: int, name: str | None = None) -> nn.Module:
    """Make the cell of an architecture, whose parameters have logical axes.

    Args:
        config: The model.
        features: Units of the cell.
        name: Its name among the module's.
    """
    lecun, orthogonal = nn.initializers.lecun_normal(), nn.initializers.orthogonal()
    return CELLS[config.architecture](
        features,
        kernel_init=name_axes(lecun, "D", "U"),
        recurrent_kernel_init=name_axes(orthogonal, "D", "U"),
        bias_init=name_axes(nn.initializers.zeros, "U"),
        dtype=jnp.dtype(config.dtype),
        param_dtype=FLOAT32,
        name=name,
    )


def hidden(carry: Any) -> jax.Array:
    """Of the carry of a cell, the state h that it shows."""
    return carry[1] if isinstance(carry, tuple) else carry


def carry_from(config: ModelConfig, state: jax.Array) -> Any:
    """Make the carry of a cell whose state h [N, D] is given; an LSTM's memory is empty."""
    return (jnp.zeros_like(state), state) if config.architecture == "lstm" else state


def scan_steps(step, module: nn.Module, carry: Any, xs: Any, reverse: bool = False):
    """Apply step(module, carry, x) to each position of xs [B, T, ...].

    Args:
        step: (module, carry, x [B, ...]) -> the next carry, and an output [B, ...].
        module: The cell.
        carry: Its state before the first position.
        xs: A tree of arrays [B, T, ...].
        reverse: Whether the last position comes first.

    Returns:
        The last carry, and the outputs [B, T, ...].
    """
    scan = nn.scan(
        step,
        variable_broadcast="params",
        variable_axes={"attention": 1},
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
        reverse=reverse,
    )
    return scan(module, carry, xs)


def without_positions(config: ModelConfig) -> ModelConfig:
    """The configuration of an embedding whose order the network itself can tell."""
    return replace(config, position_encoding="none")


class RecurrentEncoder(Embedded):
    """Layers that read in both directions, each of D / 2 units: source -> states.

    >>> from transformer_jax import presets
    >>> encoder, source = RecurrentEncoder(presets.rnn(vocab_size=50)), jnp.ones((2, 5), jnp.int32)
    >>> variables = jax.jit(encoder.init)(jax.random.key(0), source)
    >>> encoder.apply(variables, source).shape
    (2, 5, 128)
    """

    def setup(self):
        config = self.config
        self.set_up_embedding(without_positions(config), ("source",))
        self.layers = [
            [
                make_cell(config, config.d_model // 2, f"encoder_{i}_{direction}")
                for direction in ("forward", "backward")
            ]
            for i in range(config.encoder_depth)
        ]

    def __call__(self, source, rows=None):
        """Encode source [B, S] into states [B, S, D].

        Padding leaves a carry as it is, so that what was read last stands at the end.

        Args:
            source: Token ids [B, S], PAD = 0.
            rows: As in `Encoder`.
        """

        def step(cell, carry, each):
            x, is_token = each
            new, _ = cell(carry, x)
            carry = jax.tree.map(lambda n, o: jnp.where(is_token[:, None], n, o), new, carry)
            return carry, hidden(carry)

        x, is_token = self.embed.source(source, rows), source != 0
        empty = jnp.zeros((source.shape[0], self.config.d_model // 2), self.dtype)
        empty = carry_from(self.config, empty)
        for i, cells in enumerate(self.layers):
            if i:
                x = self.apply_dropout(x, self.config.dropout, rows)
            read = [
                scan_steps(step, cell, empty, (x, is_token), reverse)[1]
                for cell, reverse in zip(cells, (False, True))
            ]
            x = jnp.concatenate(read, axis=-1)
        return x


class RecurrentDecoder(AlignedDecoder):
    """Layers of D units that attend to the encoder's states: target -> logits.

    >>> from transformer_jax import presets
    >>> decoder = RecurrentDecoder(presets.lstm(vocab_size=50), cross=False)
    >>> target = jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(decoder.init)(jax.random.key(0), target)
    >>> decoder.apply(variables, target).shape
    (2, 3, 50)
    """

    def setup(self):
        config, width = self.config, self.config.d_model
        self.set_up_embedding(without_positions(config), ("target", "output"))
        layers = range(config.decoder_depth)
        self.cells = [make_cell(config, width, f"decoder_{i}") for i in layers]
        if self.cross:
            self.alignment = Alignment(config)
            self.initial = [
                Linear(width, width, ("D", "U"), config, name=f"initial_{i}") for i in layers
            ]
            self.readout = Linear(width, width, ("D", "U"), config)

    def features(self, target, memory=None, source=None, rows=None):
        """Compute what logits are made of, [B, T, D], as `AlignedDecoder.features`.

        Args:
            target: Token ids [B, T].
            memory: The encoder's states [B, S, D]; None without `cross`.
            source: Token ids [B, S]; None without `cross`.
            rows: As in `Encoder`.
        """
        carries, annotations = self._start(memory, source, target.shape[0])

        def first(module, carry, x):
            carry, context = module._first(carry, x, annotations)
            return carry, (hidden(carry), context)

        def further(cell, carry, x):
            return cell(carry, x)

        _, (x, context) = scan_steps(first, self, carries[0], self.embed_shifted(target, rows))
        for cell, carry in zip(self.cells[1:], carries[1:]):
            x = self._joined(self.apply_dropout(x, self.config.dropout, rows), context)
            _, x = scan_steps(further, cell, carry, x)
        return self.apply_dropout(self._read(x, context), self.config.dropout, rows)

    def init_cache(self, source, rows_per_sentence: int, places: int, memory=None):
        """Start decoding; arguments as in `RecurrentModel.init_cache`.

        Args:
            source: Token ids [B, S].
            rows_per_sentence: Beams.
            places: Not needed: a hypothesis has a state, however long it is.
            memory: The encoder's states; None without `cross`.
        """
        carries, annotations = self._start(memory, source, source.shape[0])
        rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows_per_sentence, 0), carries)
        return RecurrentState(rows, annotations)

    def decode_step(self, cache: RecurrentState, tokens):
        """Decode one token, as `RecurrentModel.decode_step`.

        Args:
            cache: The state before.
            tokens: The tokens just decoded [N].
        """
        x = self.embed.target_at(tokens[:, None], jnp.zeros_like(tokens))[:, 0]
        carry, context = self._first(cache.history[0], x, cache.annotations)
        carries = [carry]
        for cell, carry in zip(self.cells[1:], cache.history[1:]):
            carry, _ = cell(carry, self._joined(hidden(carries[-1]), context))
            carries.append(carry)
        features = self._read(hidden(carries[-1]), context)
        return cache._replace(history=tuple(carries)), features[:, None]

    def _start(self, memory, source, sentences: int):
        """The carry of each layer before the first token, and what is attended to."""
        if not self.cross:
            empty = jnp.zeros((sentences, self.config.d_model), self.dtype)
            return (carry_from(self.config, empty),) * len(self.cells), None
        # What each direction has read at its end.
        forward, backward = jnp.split(memory, 2, axis=-1)
        last = jnp.concatenate([forward[:, -1], backward[:, 0]], axis=-1)
        states = [jnp.tanh(each(last)) for each in self.initial]
        annotations = self.alignment.annotate(memory, memory, source)
        return tuple(carry_from(self.config, state) for state in states), annotations

    def _first(self, carry, x, annotations):
        """One step of the first layer with x [N, D]: its carry, and what it attended to [N, D]."""
        context = None
        if self.cross:
            states = hidden(carry)  # [N, D], of which each sentence has as many
            by_sentence = states.reshape(annotations.values.shape[0], -1, states.shape[-1])
            context = self.alignment(by_sentence, annotations).reshape(states.shape)
        return self.cells[0](carry, self._joined(x, context))[0], context

    def _joined(self, x, context):
        return jnp.concatenate([x, context], axis=-1) if self.cross else x

    def _read(self, x, context):
        return jnp.tanh(self.readout(self._joined(x, context))) if self.cross else x


class RecurrentModel(EncoderDecoder):
    """The encoder-decoder of the architectures rnn and lstm.

    >>> from transformer_jax import presets
    >>> model = RecurrentModel(presets.lstm(vocab_size=50))
    >>> source, target = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(model.init)(jax.random.key(0), source, target)
    >>> model.apply(variables, source, target).shape
    (2, 3, 50)
    """

    def setup(self):
        self.embedder = Embedding(without_positions(self.config))
        self.encoder = RecurrentEncoder(self.config, self.embedder)
        self.decoder = RecurrentDecoder(self.config, self.embedder)
        self.share_scope()
