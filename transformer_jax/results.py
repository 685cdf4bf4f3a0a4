"""What a translator returns: translations, attention maps, and evaluations of a test set."""

from dataclasses import dataclass

import numpy as np

from transformer_jax.evaluation.bleu import Score

__all__ = ["AttentionMaps", "Evaluation", "Translation"]


@dataclass(frozen=True)
class Translation:
    """A translation.

    Attributes:
        text: The text.
        log_prob: Log-probability in nats.
        score: log_prob / length penalty.
    """

    text: str
    log_prob: float
    score: float


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights of one sentence pair, float32; each row sums to 1 over its keys.

    A model without self-attention has no layers in `encoder` and `decoder`.

    Attributes:
        source: S pieces that the encoder reads, "</s>" last.
        decoder_input_tokens: T pieces that the decoder has read at each position, "<s>" first.
        target_tokens: T pieces that it writes there, "</s>" last.
        encoder: [L, H, S, S].
        decoder: [L, H, T, T].
        cross: [L, H, T, S].
    """

    source: list[str]
    decoder_input_tokens: list[str]
    target_tokens: list[str]
    encoder: np.ndarray
    decoder: np.ndarray
    cross: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Translations of a test set and their scores; `str` shows the scores with their signatures.

    Attributes:
        checkpoint: Name of the checkpoint.
        perplexity: Per target token, EOS included, without label smoothing.
        scores: All scores that the task has for such text.
        translations: One per source.
    """

    checkpoint: str
    perplexity: float
    scores: list[Score]
    translations: list[str]

    def __str__(self) -> str:
        head = [f"checkpoint: {self.checkpoint}", f"perplexity = {self.perplexity:.3f} per token"]
        return "\n".join([*head, *map(str, self.scores)])
