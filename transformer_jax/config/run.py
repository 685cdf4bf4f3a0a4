"""The whole configuration of a run, as config.json holds it."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field, replace
from typing import Any

from transformer_jax.config.checks import ConfigError, from_json_value, require
from transformer_jax.config.data import DataConfig
from transformer_jax.config.model import ModelConfig
from transformer_jax.config.optimizer import OptimizerConfig
from transformer_jax.config.renamed import check_fields
from transformer_jax.config.train import TrainConfig

__all__ = ["RunConfig"]

# Fields of DataConfig that say where text is, not what is done with it.
_PATH_FIELDS = (
    "train", "validation", "mixed_text", "treebank", "mixed_treebank", "data_dir", "corpus",
    "cache_dir",
)  # fmt: skip
# Fields that decide the numbers of a run up to rounding at most.
_OTHER_FIELDS = (*(f"data.{name}" for name in _PATH_FIELDS), "model.kernels", "model.remat")


@dataclass(frozen=True)
class RunConfig:
    """Everything a run folder's config.json holds."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        first = self.model.first_position
        beside = f" less the first_position {first}" if first else ""
        require(
            self.model.position_encoding != "learned"
            or self.data.max_length + first <= self.model.max_positions,
            f"max_length {self.data.max_length} is more than the max_positions "
            f"{self.model.max_positions}{beside} that the model learns: lower it or raise "
            "max_positions",
        )

    def to_json(self) -> str:
        """Write the configuration as JSON, which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Read what `to_json` wrote; unknown names and wrong types are errors that name them.

        >>> RunConfig.from_json(RunConfig().to_json()) == RunConfig()
        True
        """
        try:
            tree = json.loads(text)
            check_fields(tree)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not JSON: {error}") from None
        return typing.cast(RunConfig, from_json_value(cls, tree, ""))

    def without_text(self) -> "RunConfig":
        """Return this configuration without its text and its folders."""
        text: dict[str, Any] = dict.fromkeys((*_PATH_FIELDS, "dataset", "direction"))
        text["mixed_ratio"] = 1.0
        data, train = replace(self.data, **text), replace(self.train, checkpoint_dir=None)
        return replace(self, data=data, train=train)

    def identity_fields(self) -> dict[str, object]:
        """Field name -> value of every field that decides the numbers of the run.

        Paths are left out: the corpus fingerprint stands for what they hold. So are the direction
        of own files, which a run that is resumed may be given, and what only rounds otherwise.
        """
        fields = {
            f"{part}.{name}": value
            for part in ("model", "optimizer", "data")
            for name, value in dataclasses.asdict(getattr(self, part)).items()
        }
        for name in _OTHER_FIELDS:
            del fields[name]
        own = self.data.dataset is None
        fields["data.direction"] = None if own else self.data.known_direction
        return fields | {"train.seed": self.train.seed}
