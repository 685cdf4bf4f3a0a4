"""What models of an encoder and a decoder share."""

from typing import Any

from flax import linen as nn

from transformer_jax.models.layers import DropoutModule

__all__ = ["EncoderDecoder"]


class EncoderDecoder(DropoutModule):
    """A model whose `setup` makes `embedder`, `encoder` and `decoder`."""

    @nn.nowrap
    def share_scope(self) -> None:
        """Give the parts one scope, so that no path of a parameter, and no random number, names a
        half."""
        for part in (self.embedder, self.encoder, self.decoder):
            nn.share_scope(self, part)

    def __call__(self, source, target, rows=None):
        """Compute logits [B, T, V] in float32; logits[:, t] predicts target[:, t] from target[:,
        :t].

        Args:
            source: Token ids [B, S], PAD = 0, ending in EOS.
            target: Token ids [B, T], unshifted, ending in EOS; the model shifts them.
            rows: Integers [B] that number the sentences for dropout, as in `Encoder`.
        """
        return self.project(self.features(source, target, rows))

    def features(self, source, target, rows=None):
        """Compute what `project` makes logits of, [B, T, D]; arguments as in `__call__`.

        Args:
            source: Token ids [B, S].
            target: Token ids [B, T].
            rows: As in `__call__`.
        """
        return self.decoder.features(target, self.encode(source, rows), source, rows)

    def project(self, features):
        """Turn features [B, T, D] into logits [B, T, V] in float32."""
        return self.embedder.logits(features)

    def encode(self, source, rows=None):
        """Encode source [B, S] into what the decoder reads, its memory.

        Args:
            source: Token ids [B, S].
            rows: As in `Encoder`.
        """
        return self.encoder(source, rows)

    def init_cache(self, source, rows_per_sentence: int, places: int) -> Any:
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

    def decode_step(self, cache: Any, tokens) -> Any:
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

    def places_taken(self, cache: Any):
        """Count the places of each sentence [B] that hold a token of any of its hypotheses."""
        return self.decoder.places_taken(cache)

    def resize_cache(self, cache: Any, source_length: int, places: int) -> Any:
        """Give a state other sizes; what is cut off must be padding, or free.

        Args:
            cache: The state.
            source_length: S, of the source with padding.
            places: P, as in `init_cache`.
        """
        return self.decoder.resize_cache(cache, source_length, places)
