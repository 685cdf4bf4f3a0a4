"""The configuration of a model."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from transformer_jax.config.checks import check_positive, check_types, require

__all__ = ["Dtype", "ModelConfig"]

Activation = Literal["relu", "swish", "gelu"]
Dtype = Literal["float32", "bfloat16"]
Kernels = Literal["auto", "definition", "compact", "blockwise", "cudnn"]


@dataclass(frozen=True)
class ModelConfig:
    """A model; the defaults are exactly the paper's base model (section 3).

    The fields are described for the Transformer; other architectures may ignore some.
    """

    architecture: str = "transformer"
    """Name of the model family: transformer, rnn (Elman's network), lstm, convolutional, or one
    registered with `models.families`."""
    vocab_size: int = 37_000
    """Rows of the embedding table; replaced by the size of the trained vocabulary."""
    target_vocab_size: int | None = None
    """Rows of the target's tables where the task has a vocabulary for each side; None is as many as
    vocab_size."""
    d_model: int = 512
    """D, width of the residual stream."""
    d_ff: int = 2048
    """F, width inside the feed-forward network."""
    activation: Activation = "relu"
    """Function inside the feed-forward network: relu (section 3.3), swish, x sigmoid(x), or gelu,
    x times the normal distribution function of x."""
    num_heads: int = 8
    """H, number of attention heads."""
    num_layers: int = 6
    """Number of layers in the encoder, and in the decoder, where the next two do not say it."""
    encoder_layers: int | None = None
    """Number of layers in the encoder; None is num_layers."""
    decoder_layers: int | None = None
    """Number of layers in the decoder; None is num_layers."""
    d_k: int | None = None
    """K, width of a head's queries and keys; None is d_model / num_heads."""
    d_v: int | None = None
    """Dv, width of a head's values; None is d_model / num_heads."""
    dropout: float = 0.1
    """Dropout on each sub-layer's output and on embedding + position (section 5.4)."""
    attention_dropout: float = 0.0
    """Dropout on attention weights; the paper has none, later tensor2tensor has 0.1."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward network; the paper has none, later tensor2tensor has 0.1."""
    norm_placement: Literal["post", "pre"] = "post"
    """post: LayerNorm(x + Sublayer(x)); pre: x + Sublayer(LayerNorm(x)) and a final norm."""
    normalization: Literal["layer", "batch"] = "layer"
    """layer: over the features of a position; batch: over the batch, with running statistics."""
    residual_connections: bool = True
    """Whether what a sub-layer computes is added to what it reads (section 3.1)."""
    norm_epsilon: float = 1e-6
    """Added to the variance in every norm."""
    position_encoding: Literal["paper", "concatenated", "t2t", "learned", "index", "none"] = "paper"
    """Layout of the sinusoids; or a learned table (Table 3, row E), the bare number of the position
    added to the first feature, or none."""
    max_positions: int = 1024
    """Rows of the learned position table; sinusoids need none, and a search has 65,536 of them."""
    first_position: int = 0
    """Position of the first token: 2 in fairseq, whose table begins with rows of its own."""
    attention_score: Literal["scaled", "unscaled", "additive"] = "scaled"
    """Score function of section 3.2.1: q.k / sqrt(d_k), q.k, or v.tanh(q + k). In recurrent and
    convolutional networks it is that of the attention to the source."""
    attention_radius: int | None = None
    """Self-attention reaches tokens at most so many positions away, in the decoder before; None
    reaches all. Table 1's neighbourhood of size r is a radius of r / 2."""
    cross_attention_radius: int | None = None
    """Words on either side of the one that comes next that attention to the source reaches, in the
    task parsing, whose `Task.model` applies it; None reaches all."""
    kernel_width: int = 3
    """k, tokens that a convolution reads."""
    dilation_base: int = 1
    """The entries of the kernel in layer i, counted from 0, are dilation_base^i tokens apart."""
    tied_embeddings: Literal["all", "decoder", "none"] = "all"
    """all: one table for source, target and output; decoder: one for target and output; none."""
    output_bias: bool = False
    """Whether a parameter is added to the logits; the paper has none."""
    scale_embeddings: bool = True
    """Whether embeddings are multiplied by sqrt(d_model) (section 3.4)."""
    start_id: int = 0
    """Start symbol of the decoder: 0 is the zero vector of padding, 3 a row of its own (BOS)."""
    dtype: Dtype = "float32"
    """Dtype of the computation; parameters, statistics, softmax and loss stay float32."""
    kernels: Kernels = "auto"
    """Functions that attention, projections and logits are computed with; all are equal up to
    rounding. definition: the formulas as they stand; compact: with gradients of their own, which
    keep less; blockwise: compact, and attention in blocks, for long sequences; cudnn: compact, and
    cuDNN's attention; auto: compact for a new run, its own for one that is resumed."""
    remat: Literal["none", "layers", "dots"] = "none"
    """What the backward pass computes again instead of keeping it: none; layers: all inside each
    layer; dots: all but the products with parameters."""

    def __post_init__(self):
        check_types(self)
        check_positive(self, "vocab_size", "target_vocab_size", "d_model", "d_ff", "num_heads")
        check_positive(self, "num_layers", "encoder_layers", "decoder_layers", "d_k", "d_v")
        check_positive(self, "norm_epsilon", "max_positions")
        check_positive(self, "attention_radius", "kernel_width", "dilation_base")
        radius = self.cross_attention_radius
        require(radius is None or radius >= 0, f"cross_attention_radius {radius} is less than 0")
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
            self.position_encoding in ("learned", "index", "none") or self.d_model % 2 == 0,
            f"d_model {self.d_model} is odd: sinusoidal positions come in pairs",
        )
        require(
            0 <= self.first_position < self.max_positions,
            f"first_position {self.first_position} is outside 0 to max_positions "
            f"{self.max_positions} - 1",
        )
        if self.kernels in ("blockwise", "cudnn"):
            self._check_attention()
        require(
            0 <= self.start_id < self.target_size,
            f"start_id {self.start_id} is outside the vocabulary of {self.target_size}",
        )

    def _check_attention(self):
        """Raise ConfigError for what needs attention weights, or what cuDNN does not compute."""
        kernels, needs_weights = self.kernels, self.needs_attention_weights
        require(
            needs_weights is None,
            f"kernels {kernels!r} forms no attention weights, which {needs_weights} needs: choose "
            "compact or definition",
        )
        sizes = self.key_size, self.value_size
        require(
            kernels != "cudnn" or (sizes[0] == sizes[1] and sizes[0] % 8 == 0 and sizes[0] <= 128),
            f"kernels 'cudnn' needs d_k = d_v, a multiple of 8 and at most 128, not {sizes[0]} and "
            f"{sizes[1]}",
        )
        require(
            kernels != "cudnn" or self.dtype != "float32",
            "kernels 'cudnn' computes in 16 bits: add dtype bfloat16, or choose compact",
        )

    @property
    def needs_attention_weights(self) -> str | None:
        """The field and its value for which attention weights are formed in training."""
        if self.attention_dropout > 0:
            return f"attention_dropout {self.attention_dropout}"
        additive = self.attention_score == "additive"
        return f"attention_score {self.attention_score!r}" if additive else None

    @property
    def chosen_kernels(self) -> Kernels:
        """The kernels, with what auto stands for."""
        return "compact" if self.kernels == "auto" else self.kernels

    def with_dtype(self, dtype: Dtype) -> Self:
        """The same model, computed in a dtype, with kernels that are fast in it or can compute it.

        Args:
            dtype: Of the computation.

        >>> ModelConfig(kernels="definition").with_dtype("bfloat16").kernels
        'compact'
        """
        other = self.kernels if self.kernels == "blockwise" else "compact"
        return replace(self, dtype=dtype, kernels=other)

    @property
    def target_size(self) -> int:
        """Size of the target's vocabulary, which is the number of classes of the output."""
        return self.vocab_size if self.target_vocab_size is None else self.target_vocab_size

    @property
    def encoder_depth(self) -> int:
        return self.num_layers if self.encoder_layers is None else self.encoder_layers

    @property
    def decoder_depth(self) -> int:
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    @property
    def key_size(self) -> int:
        return self.d_model // self.num_heads if self.d_k is None else self.d_k

    @property
    def value_size(self) -> int:
        return self.d_model // self.num_heads if self.d_v is None else self.d_v
