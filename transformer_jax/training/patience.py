"""When to stop for want of a gain: a count of evaluations that travels in checkpoints."""

from dataclasses import dataclass

__all__ = ["Patience"]


@dataclass
class Patience:
    """Counts evaluations in a row without a gain of more than `min_delta` over the best before.

    `limit` None never ends. `best` and `waited` are what `record` has written down.

    >>> patience = Patience(limit=2, min_delta=0.1, more=True)
    >>> [patience.ends(score) for score in (1.0, 1.05, 1.2, 1.25, 1.1)]
    [False, False, False, False, True]
    """

    limit: int | None
    min_delta: float
    more: bool
    """Whether more of the metric is better."""
    best: float | None = None
    waited: int = 0

    def ends(self, score: float | None) -> bool:
        """Take in a score, where NaN and None are no gain; whether patience ends with it."""
        if self._gains(score):
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        return self.ended

    def _gains(self, score):
        if score is None or score != score:
            return False
        if self.best is None:
            return True
        gain = score - self.best if self.more else self.best - score
        return gain > self.min_delta

    @property
    def record(self) -> dict[str, float | None]:
        """What a checkpoint carries of it."""
        return {"limit": self.limit, "best": self.best, "waited": self.waited}

    @property
    def ended(self) -> bool:
        return self.limit is not None and self.waited >= self.limit
