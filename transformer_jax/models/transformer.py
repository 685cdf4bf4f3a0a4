"""The encoder-decoder of section 3.

Token ids are int32, PAD = 0. Targets are passed unshifted, ending in EOS; the model shifts them.
"""

import jax
from flax import linen as nn

from transformer_jax.models.decoder import Decoder, DecodeState
from transformer_jax.models.embedding import Embedding
from transformer_jax.models.encoder import Encoder, Masks, Segments
from transformer_jax.models.kernels import AttentionFunction
from transformer_jax.models.layers import DropoutModule

__all__ = ["DecodeState", "Decoder", "Encoder", "Masks", "Segments", "Transformer"]


class Transformer(DropoutModule):
    """The encoder-decoder of section 3; tables are shared as `config.tied_embeddings` says.

    `attention_fn` is called as `functional.dot_product_attention` is, instead of the function that
    `config.kernels` names. A search, whose keys are cached, does not call it, nor does a call that
    collects attention weights, which are the definition's.

    >>> import jax.numpy as jnp
    >>> from transformer_jax import presets
    >>> model = Transformer(presets.tiny(vocab_size=50))
    >>> source, target = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 3), jnp.int32)
    >>> variables = jax.jit(model.init)(jax.random.key(0), source, target)
    >>> model.apply(variables, source, target).shape
    (2, 3, 50)
    """

    attention_fn: AttentionFunction | None = None

    def setup(self):
        # One scope for all three: no path of a parameter, and so no random number, names a half.
        self.embedder = Embedding(self.config)
        attend = self.attention_fn
        self.encoder = Encoder(self.config, self.embedder, attention_fn=attend)
        self.decoder = Decoder(self.config, self.embedder, attention_fn=attend)
        for part in (self.embedder, self.encoder, self.decoder):
            nn.share_scope(self, part)

    def __call__(self, source, target, rows=None, masks=None, segments=None):
        """Compute logits [B, T, V] in float32; logits[:, t] predicts target[:, t] from target[:,
        :t].

        Args:
            source: Token ids [B, S], PAD = 0, ending in EOS.
            target: Token ids [B, T], unshifted, ending in EOS; the model shifts them.
            rows: Integers [B] that number the sentences for dropout, as in `Encoder`.
            masks: Further masks, as `Masks`.
            segments: Sentences packed in one row, as `Segments`.
        """
        masks, segments = masks or Masks(), segments or Segments()
        memory = self.encode(source, rows, masks.encoder, segments.source)
        return self.decode(memory, source, target, rows, masks, segments)

    def features(self, source, target, rows=None, masks=None, segments=None):
        """Compute what `project` makes logits of, [B, T, D]; arguments as in `__call__`.

        Args:
            source: Token ids [B, S].
            target: Token ids [B, T].
            rows: As in `__call__`.
            masks: As in `__call__`.
            segments: As in `__call__`.
        """
        masks, segments = masks or Masks(), segments or Segments()
        memory = self.encode(source, rows, masks.encoder, segments.source)
        return self.decoder.features(target, memory, source, rows, masks, segments)

    def project(self, features):
        """Turn features [B, T, D] into logits [B, T, V] in float32."""
        return self.embedder.logits(features)

    def encode(self, source, rows=None, mask=None, segments=None):
        """Encode source [B, S] into the memory [B, S, D], as `Encoder` does.

        Args:
            source: Token ids [B, S].
            rows: As in `Encoder`.
            mask: As in `Masks`.
            segments: [B, S] as in `Segments`.
        """
        return self.encoder(source, rows, mask, segments)

    def decode(self, memory, source, target, rows=None, masks=None, segments=None):
        """Compute logits [B, T, V] from a memory, as `Decoder` does.

        Args:
            memory: [B, S, D].
            source: Token ids [B, S].
            target: Token ids [B, T].
            rows: As in `Encoder`.
            masks: Further masks, as `Masks`.
            segments: Sentences packed in one row, as `Segments`.
        """
        return self.decoder(target, memory, source, rows, masks, segments)

    def init_cache(self, source, rows_per_sentence: int, places: int) -> DecodeState:
        """Encode the source and make room for decoding step by step.

        Row b * rows_per_sentence + w of the state is beam w of sentence b. Only the model's own
        masks are used.

        Args:
            source: Token ids [B, S].
            rows_per_sentence: Beams.
            places: Tokens of a sentence's hypotheses for which there is room. Those that they share
                count once; rows_per_sentence * T are enough for T steps, whatever is decoded.
        """
        memory = self.encode(source)
        return self.decoder.init_cache(source, rows_per_sentence, places, memory)

    def decode_step(self, cache: DecodeState, tokens) -> tuple[DecodeState, jax.Array]:
        """Decode one token.

        A sentence needs a free place for each of its rows (`places_taken`); without them what is
        decoded for it is wrong. Tokens beyond a learned table have its last position.

        Args:
            cache: The state before.
            tokens: The tokens just decoded [N], `start_id` at first.

        Returns:
            The new state, and what the logits of the next token are made of, [N, 1, D].
        """
        return self.decoder.decode_step(cache, tokens)

    def places_taken(self, cache: DecodeState):
        """Count the places of each sentence [B] that hold a token of any of its hypotheses."""
        return self.decoder.places_taken(cache)

    def resize_cache(self, cache: DecodeState, source_length: int, places: int) -> DecodeState:
        """Give a state other sizes; what is cut off must be padding, or free.

        Args:
            cache: The state.
            source_length: S, of the source with padding.
            places: P, as in `init_cache`.
        """
        return self.decoder.resize_cache(cache, source_length, places)
