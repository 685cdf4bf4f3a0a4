"""When to stop for want of a gain: a count of evaluations that travels in checkpoints."""

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
        """That of a run that is resumed from a checkpoint with the metadata `before`.

        Another limit or metric counts anew. `metrics` are those of the task.
        """
        metric = train.best_metric
        patience = cls(metric, metrics[metric], train.patience, train.min_delta)
        saved = before.get("patience") or {}
        if (saved.get("metric"), saved.get("limit")) == (metric, train.patience):
            patience.best = saved["best"]
            patience.evaluations_without_gain = saved["evaluations_without_gain"]
        return patience

    def ends(self, score: float | None) -> bool:
        """Take in a score, where NaN and None are no gain; whether patience ends with it."""
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
        """What a checkpoint carries of it."""
        names = ("metric", "limit", "best", "evaluations_without_gain")
        return {name: getattr(self, name) for name in names}


def has_ended(record: Mapping[str, Any]) -> bool:
    """Whether patience had ended when it wrote this down.

    >>> has_ended({"limit": 2, "evaluations_without_gain": 2})
    True
    >>> has_ended({"limit": None, "evaluations_without_gain": 2})
    False
    """
    return record["limit"] is not None and record["evaluations_without_gain"] >= record["limit"]


def check_record(record: Any) -> None:
    """ValueError for what no `Patience.record` is, as a damaged checkpoint may hold."""
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
