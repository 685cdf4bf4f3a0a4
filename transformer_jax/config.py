"""What a run is: four frozen dataclasses, checked when they are made. Imports no jax.

Identity fields (model, data, optimizer and TrainConfig.seed) decide the numbers of a run and may
not change when it is resumed; the other TrainConfig fields may.
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Literal

from transformer_jax.errors import LARGEST, UserError, is_text, nearest
from transformer_jax.languages import is_direction, languages_of

__all__ = ["DataConfig", "ModelConfig", "OptimizerConfig", "RunConfig", "TrainConfig"]

PathPair = tuple[str, str]
# Fields of DataConfig that say where text is, not what is done with it.
_PLACES = ("train", "validation", "data_dir", "corpus", "cache_dir")


class ConfigError(UserError):
    """A configuration that cannot run: the message names the field, the value and the rule."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value is None or value > 0, f"{name} {value} must be positive")


def _check_types(config) -> None:
    """Every field holds what its annotation says (a dataclass itself does not look)."""
    for name, kind in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            _require(value in choices, f"{name} {value!r} is none of {', '.join(choices)}")
            continue
        kinds = [typing.get_origin(k) or k for k in typing.get_args(kind) or (kind,)]
        kinds = [tuple] if typing.get_origin(kind) is tuple else kinds
        if type(value) is int and name != "seed":
            _require(abs(value) <= LARGEST, f"{name} {value:.3g} is larger than {LARGEST}")
        if float in kinds and type(value) in (int, float):
            _require(math.isfinite(value), f"{name} {value} is not finite")
            continue
        names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        _require(type(value) in kinds, f"{name} {value!r} must be of type {names}")


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
    relu_dropout: float = 0.0
    """Inside the feed-forward network; the paper has none, later T2T has 0.1."""
    norm: Literal["post", "pre"] = "post"
    """post: LayerNorm(x + Sublayer(x)); pre: x + Sublayer(LayerNorm(x)) and a final norm."""
    normalization: Literal["layer", "batch"] = "layer"
    """Over the features of a position, or, with running statistics, over the batch."""
    norm_epsilon: float = 1e-6
    """Added to the variance in every norm."""
    positions: Literal["paper", "concatenated", "t2t", "learned", "none"] = "paper"
    """Sinusoid layout, or a learned table (Table 3, row E)."""
    max_positions: int = 1024
    """Rows of the learned position table; sinusoids have no limit."""
    attention: Literal["scaled", "unscaled", "additive"] = "scaled"
    """Score of section 3.2.1: q.k / sqrt(d_k), q.k, or v.tanh(q + k)."""
    tied: Literal["all", "decoder", "none"] = "all"
    """One table for source, target and output; or target and output; or three tables."""
    start_id: int = 0
    """Decoder start symbol: 0 is the zero vector of the padding row, 3 a row of its own (BOS)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, statistics, softmax and loss stay float32."""

    def __post_init__(self):
        _check_types(self)
        _positive(self, "vocab_size", "d_model", "d_ff", "num_heads", "num_layers", "d_k", "d_v")
        _positive(self, "norm_epsilon", "max_positions", "target_vocab_size")
        if self.d_k is None or self.d_v is None:
            _require(
                self.d_model % self.num_heads == 0,
                f"d_model {self.d_model} is not divisible by num_heads {self.num_heads}: "
                "choose another pair, or give d_k and d_v",
            )
        for name in ("dropout", "attention_dropout", "relu_dropout"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} {value} is outside [0, 1)")
        _require(
            self.positions in ("learned", "none") or self.d_model % 2 == 0,
            f"d_model {self.d_model} is odd: sinusoidal positions come in pairs",
        )
        _require(
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


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam, the warm-up schedule and the objective (sections 5.3 and 5.4)."""

    lr_factor: float = 1.0
    """Multiplies d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5)."""
    warmup_steps: int = 4000
    """Steps of linear growth; the peak is lr_factor / sqrt(d_model * warmup_steps)."""
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    label_smoothing: float = 0.1
    """Mass moved off the target, spread over the other V - 1 classes."""
    accumulate: int = 1
    """Batches summed into one update."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; None clips nothing, as in the paper."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the parameters and use it to evaluate."""
    logits_block: int | None = None
    """Target tokens whose logits are there at once, made again for the gradient; None is all of a
    batch. Less memory for a large vocabulary, equal numbers up to rounding."""

    def __post_init__(self):
        _check_types(self)
        _positive(self, "lr_factor", "warmup_steps", "epsilon", "accumulate", "clip_norm")
        _positive(self, "logits_block")
        for name in ("beta1", "beta2", "label_smoothing", "ema_decay"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, f"{name} {value} is outside [0, 1)")


@dataclass(frozen=True)
class DataConfig:
    """Which text, cut into which tokens, grouped into which batches (section 5.1)."""

    task: str = "translation"
    """What the text is for; translation, or one registered with `tasks`."""
    train: PathPair | None = None
    """Source and target file, one sentence a line, UTF-8."""
    validation: PathPair | None = None
    """Source and target file to evaluate on while training."""
    dataset: str | None = None
    """Instead of files: grammar, text, multi30k, wmt14_translate or wmt16_translate."""
    direction: str | None = None
    """Source and target language of the text, as en-de; None is that of the dataset, and of own
    files unknown."""
    data_dir: str | None = None
    """Files or archives that the dataset is read from; None writes or downloads them."""
    corpus: str | None = None
    """Folder made by `prepare`; None prepares the text and keeps it in the run folder too."""
    cache_dir: str | None = None
    """Where prepared data is kept; None is $TRANSFORMER_JAX_CACHE or ~/.cache/transformer_jax."""
    vocabulary: Literal["bpe", "unigram", "whitespace"] = "bpe"
    """SentencePiece BPE or unigram trained on the text, or tokens as the text separates them."""
    max_length: int = 256
    """Tokens a side, EOS included; longer pairs are left out of training and counted."""
    batch_tokens: int = 25_000
    """Slots a side in one batch, padding included."""
    num_shapes: int = 12
    """Most batch shapes (sentences x source x target), each compiled once."""

    def __post_init__(self):
        _check_types(self)
        _positive(self, "max_length", "batch_tokens", "num_shapes")
        _require(
            self.corpus is None or (self.train, self.validation, self.dataset) == (None,) * 3,
            f"corpus {self.corpus} is prepared text: leave train, validation and dataset out",
        )
        _require(
            self.dataset is None or (self.train is None and self.validation is None),
            f"dataset {self.dataset} brings its own text: leave train and validation out",
        )
        _require(
            self.data_dir is None or self.dataset is not None,
            f"data_dir {self.data_dir} belongs to a dataset: name it too, as in --dataset text",
        )
        _require(
            self.max_length <= self.batch_tokens,
            f"batch_tokens {self.batch_tokens} is smaller than one sentence of max_length "
            f"{self.max_length}: raise the one or lower the other",
        )

    @property
    def known_direction(self) -> str | None:
        """The direction of the text, where it is given or the dataset has one of its own."""
        own = self.dataset is not None and self.dataset != "text"
        return "en-de" if self.direction is None and own else self.direction

    @property
    def languages(self) -> tuple[str, str] | tuple[None, None]:
        """Of source and target, where they are known; runs made before directions of own files were
        checked may have anything there."""
        known = self.known_direction
        return (None, None) if known is None or not is_direction(known) else languages_of(known)


@dataclass(frozen=True)
class TrainConfig:
    """How long a run goes on, what it writes down and what it keeps."""

    steps: int = 100_000
    """Updates in all."""
    seed: int = 0
    """Of parameters, dropout and the order of batches."""
    log_every: int = 50
    """Steps between training records in metrics.jsonl."""
    evaluate_every: int = 1000
    """Steps between evaluations on the validation files; every checkpoint is evaluated too."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    checkpoint_each_epoch: bool = False
    """Save at the end of each epoch instead of every checkpoint_every steps."""
    keep_last: int = 5
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Keep for good every checkpoint whose step is a multiple of this."""
    best_metric: str = "loss"
    """What decides the best checkpoint, which is kept: loss, perplexity or accuracy of the
    validation text, or bleu or chrf of its translation (chrf stands for bleu in languages that
    sacreBLEU cannot cut into words); another task says what it has."""
    patience: int | None = None
    """Stop after so many evaluations of evaluate_every in a row without a gain in best_metric."""
    min_delta: float = 0.0
    """A gain is more than this, in the metric's own units."""
    average_last: int = 5
    """Checkpoints averaged at the end (section 6.1: 5 for base, 20 for big)."""
    stop_after_skipped: int = 20
    """Steps skipped in a row for gradients that are not finite before the run stops."""
    checkpoint_dir: str | None = None
    """Keep checkpoints here instead of in the run folder: another disk, or gs://BUCKET/FOLDER and
    s3://BUCKET/FOLDER as far as orbax and etils reach them."""
    parallel: Literal["auto", "jit", "pmap", "mesh"] = "auto"
    """jit: one device; pmap: all devices of one process; mesh: any devices of any processes; auto
    is jit where there is one device, else mesh."""
    mesh: str | None = None
    """Devices along each axis, as data=2,fsdp=2,tensor=2; one not named has 1, and data what the
    others leave."""

    def __post_init__(self):
        _check_types(self)
        _positive(self, "steps", "log_every", "evaluate_every", "checkpoint_every", "keep_last")
        _positive(self, "keep_every", "average_last", "stop_after_skipped", "patience")
        _require(self.min_delta >= 0, f"min_delta {self.min_delta} must not be negative")
        _require(
            self.average_last <= self.keep_last,
            f"average_last {self.average_last} is more than keep_last {self.keep_last} checkpoints",
        )
        _require(0 <= self.seed < 2**63, f"seed {self.seed} is outside [0, 2^63)")
        _require(
            not mesh_sizes(self.mesh) or self.parallel in ("auto", "mesh"),
            f"mesh {self.mesh} belongs to --parallel mesh, not {self.parallel}: leave one out",
        )


def mesh_sizes(mesh: str | None) -> dict[str, int]:
    """Axis -> devices, as TrainConfig.mesh names them.

    >>> mesh_sizes("data=2,tensor=4")
    {'data': 2, 'tensor': 4}
    """
    sizes: dict[str, int] = {}
    for part in mesh.split(",") if mesh else ():
        name, _, size = part.partition("=")
        known = name in ("data", "fsdp", "tensor") and name not in sizes
        _require(
            known and size.isdecimal() and len(size) < 10 and int(size) > 0,
            f"mesh {mesh!r}: {part!r} is no part of one; write as data=2,fsdp=2,tensor=2",
        )
        sizes[name] = int(size)
    return sizes


@dataclass(frozen=True)
class RunConfig:
    """Everything a run folder's config.json holds."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        _require(
            self.model.positions != "learned" or self.data.max_length <= self.model.max_positions,
            f"max_length {self.data.max_length} is more than the max_positions "
            f"{self.model.max_positions} that the model learns: raise the one or lower the other",
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Read what `to_json` wrote; unknown names and wrong types are errors that name them.

        >>> RunConfig.from_json(RunConfig().to_json()) == RunConfig()
        True
        """
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not JSON: {error}") from None
        return typing.cast(RunConfig, from_tree(cls, tree, ""))

    def deciding(self) -> dict[str, object]:
        """Field name -> value of every field that decides the numbers of the run.

        Paths are left out: the corpus fingerprint stands for what they hold. So is the direction of
        own files, which a run that goes on may be given.
        """
        fields = {
            f"{part}.{name}": value
            for part in ("model", "optimizer", "data")
            for name, value in dataclasses.asdict(getattr(self, part)).items()
        }
        for place in _PLACES:
            del fields[f"data.{place}"]
        own = self.data.dataset is None
        fields["data.direction"] = None if own else self.data.known_direction
        return fields | {"train.seed": self.train.seed}


def from_tree(kind, tree, path):
    """Build `kind` from parsed JSON, checking types as annotations state them.

    `path` is what error messages call the place of `tree`.
    """
    where = path or "configuration"
    if dataclasses.is_dataclass(kind):
        _require(isinstance(tree, dict), f"{where} must be an object, not {tree!r:.80}")
        hints = typing.get_type_hints(kind)
        for name in tree:
            _require(name in hints, f"{where} has no field {name!r}; {nearest(name, hints)}")
        prefix = f"{path}." if path else ""
        values = {n: from_tree(hints[n], value, prefix + n) for n, value in tree.items()}
        return typing.cast(type, kind)(**values)
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None if tree is None else from_tree(arguments[0], tree, path)
    if typing.get_origin(kind) is tuple:
        fits = isinstance(tree, list) and len(tree) == len(arguments)
        _require(fits, f"{where} must be a list of {len(arguments)}, not {tree!r:.80}")
        parts = zip(arguments, tree)
        return tuple(from_tree(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(parts))
    if typing.get_origin(kind) is Literal:
        kind = str
    if kind is float and type(tree) is int and abs(tree) <= LARGEST:
        tree = float(tree)
    if type(tree) is str:
        sound = "\0" not in tree and is_text(tree)
        _require(sound, f"{where} holds characters that no text has: {tree!r:.80}")
    _require(type(tree) is kind, f"{where} must be of type {kind.__name__}, not {tree!r:.80}")
    return tree
