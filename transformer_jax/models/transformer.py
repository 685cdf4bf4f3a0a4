"""The encoder-decoder of section 3.

Token ids are int32, PAD = 0. Targets are passed unshifted, ending in EOS; the model shifts them.
"""

from transformer_jax.models.decoder import Decoder, DecodeState
from transformer_jax.models.embedding import Embedding
from transformer_jax.models.encoder import Encoder, Masks, Segments
from transformer_jax.models.encoder_decoder import EncoderDecoder
from transformer_jax.models.kernels import AttentionFunction

__all__ = ["DecodeState", "Decoder", "Encoder", "Masks", "Segments", "Transformer"]


class Transformer(EncoderDecoder):
    """The encoder-decoder of section 3; tables are shared as `config.tied_embeddings` says.

    `attention_fn` is called as `functional.dot_product_attention` is, instead of the function that
    `config.kernels` names; of blocks (`functional.local_attention`) where `config.attention_radius`
    is set and kernels are not the definition. A search, whose keys are cached, does not call it,
    nor does a call that collects attention weights, which are the definition's.

    >>> import jax
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
        self.embedder = Embedding(self.config)
        attend = self.attention_fn
        self.encoder = Encoder(self.config, self.embedder, attention_fn=attend)
        self.decoder = Decoder(self.config, self.embedder, attention_fn=attend)
        self.share_scope()

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
