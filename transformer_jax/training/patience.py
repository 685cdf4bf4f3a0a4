"""Early stopping: a count of evaluations without a gain, which travels in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformer_jax.config import TrainConfig

__all__ = ["Patience", "check_record", "has_ended"]


@dataclass
class Patience:
    """Counts evaluations in a row without a gain of more than `min_delta` over the best before.

    >>> patience = Patience("loss", more=False, limit=2, min_delta=0.1)
    >>> [patience.ends(score) for score in (3.0, 2.95, 2.8, 2.75, 2.9)]
    [False, False, False, False, True]
    """

    metric: str
    more: bool
    """Whether more of the metric is better."""
    limit: int | None
    """None never ends."""
    min_delta: float
    best: float | None = None
    evaluations_without_gain: int = 0

    @classmethod
    def of(
        cls, train: TrainConfig, metrics: Mapping[str, bool], before: Mapping[str, Any]
    ) -> "Patience":
        """Make the patience of a run, as it was when a checkpoint was saved.

        Another limit or metric starts a new count.

        Args:
            train: The limit and the metric.
            metrics: Metrics of the task -> whether more is better.
            before: Metadata of the checkpoint, {} for a new run.
        """
        metric = train.best_metric
        patience = cls(metric, metrics[metric], train.patience, train.min_delta)
        saved = before.get("patience") or {}
        if (saved.get("metric"), saved.get("limit")) == (metric, train.patience):
            patience.best = saved["best"]
            patience.evaluations_without_gain = saved["evaluations_without_gain"]
        return patience

    def ends(self, score: float | None) -> bool:
        """Take in a score, where NaN and None are no gain; whether training ends with it."""
        if self._gains(score):
            self.best, self.evaluations_without_gain = score, 0
        else:
            self.evaluations_without_gain += 1
        return self.ended

    def _gains(self, score):
        if score is None or score != score:
            return False
        if self.best is None:
            return True
        gain = score - self.best if self.more else self.best - score
        return gain > self.min_delta

    @property
    def ended(self) -> bool:
        return has_ended(self.record)

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint stores of it."""
        names = ("metric", "limit", "best", "evaluations_without_gain")
        return {name: getattr(self, name) for name in names}


def has_ended(record: Mapping[str, Any]) -> bool:
    """Whether training had ended by patience when this was recorded.

    >>> has_ended({"limit": 2, "evaluations_without_gain": 2})
    True
    >>> has_ended({"limit": None, "evaluations_without_gain": 2})
    False
    """
    return record["limit"] is not None and record["evaluations_without_gain"] >= record["limit"]


def check_record(record: Any) -> None:
    """Raise ValueError for what is no `Patience.record`, as a damaged checkpoint may hold."""
    kinds: dict[str, tuple[type, ...]] = {
        "metric": (str,),
        "limit": (int,),
        "evaluations_without_gain": (int,),
        "best": (int, float, type(None)),
    }
    intact = isinstance(record, dict) and all(
        isinstance(record.get(name, ...), kind) for name, kind in kinds.items()
    )
    if not intact:
        raise ValueError(f"its patience is {record!r:.80}")
