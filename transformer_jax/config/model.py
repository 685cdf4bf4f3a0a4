"""The model."""

from dataclasses import dataclass
from typing import Literal

from transformer_jax.config.checks import check_positive, check_types, require

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """A model; the defaults are the paper's base model to the letter (section 3).

    What is said of a field holds for the Transformer; another architecture says which it reads.
    """

    architecture: str = "transformer"
    """Family of models; transformer, or one registered with `models.families`."""
    vocab_size: int = 37_000
    """Rows of the shared table; a whitespace vocabulary with fewer types lowers it."""
    target_vocab_size: int | None = None
    """Rows of the target's tables where the task has a vocabulary a side; None as many as
    vocab_size asks for."""
    d_model: int = 512
    """D, width of the residual stream."""
    d_ff: int = 2048
    """F, width inside the feed-forward network."""
    num_heads: int = 8
    """H, attention heads."""
    num_layers: int = 6
    """Layers in the encoder, and as many in the decoder."""
    d_k: int | None = None
    """K, width of a head's queries and keys; None is d_model / num_heads."""
    d_v: int | None = None
    """Dv, width of a head's values; None is d_model / num_heads."""
    dropout: float = 0.1
    """On each sub-layer's output and on embedding + position (section 5.4)."""
    attention_dropout: float = 0.0
    """On attention weights; the paper has none, later T2T has 0.1."""
    activation_dropout: float = 0.0
    """Inside the feed-forward network; the paper has none, later T2T has 0.1."""
    norm_placement: Literal["post", "pre"] = "post"
    """post: LayerNorm(x + Sublayer(x)); pre: x + Sublayer(LayerNorm(x)) and a final norm."""
    normalization: Literal["layer", "batch"] = "layer"
    """Over the features of a position, or, with running statistics, over the batch."""
    norm_epsilon: float = 1e-6
    """Added to the variance in every norm."""
    position_encoding: Literal["paper", "concatenated", "t2t", "learned", "none"] = "paper"
    """Sinusoid layout, or a learned table (Table 3, row E)."""
    max_positions: int = 1024
    """Rows of the learned position table; sinusoids have no limit."""
    attention_score: Literal["scaled", "unscaled", "additive"] = "scaled"
    """Score of section 3.2.1: q.k / sqrt(d_k), q.k, or v.tanh(q + k)."""
    tied_embeddings: Literal["all", "decoder", "none"] = "all"
    """One table for source, target and output; or target and output; or three tables."""
    start_id: int = 0
    """Decoder start symbol: 0 is the zero vector of the padding row, 3 a row of its own (BOS)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, statistics, softmax and loss stay float32."""

    def __post_init__(self):
        check_types(self)
        check_positive(self, "vocab_size", "target_vocab_size", "d_model", "d_ff", "num_heads")
        check_positive(self, "num_layers", "d_k", "d_v", "norm_epsilon", "max_positions")
        if self.d_k is None or self.d_v is None:
            require(
                self.d_model % self.num_heads == 0,
                f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}: "
                "choose another pair, or give d_k and d_v",
            )
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} {value} is outside [0, 1)")
        require(
            self.position_encoding in ("learned", "none") or self.d_model % 2 == 0,
            f"d_model {self.d_model} is odd: sinusoidal positions come in pairs",
        )
        require(
            0 <= self.start_id < self.target_size,
            f"start_id {self.start_id} is outside the vocabulary of {self.target_size}",
        )

    @property
    def target_size(self) -> int:
        """Types of the target's vocabulary, and so classes of the output."""
        return self.vocab_size if self.target_vocab_size is None else self.target_vocab_size

    @property
    def key_size(self) -> int:
        return self.d_model // self.num_heads if self.d_k is None else self.d_k

    @property
    def value_size(self) -> int:
        return self.d_model // self.num_heads if self.d_v is None else self.d_v
