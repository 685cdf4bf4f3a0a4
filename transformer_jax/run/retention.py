"""Which checkpoints are kept: the newest, every n-th, and the best by score."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Retention"]


class Retention:
    """What is known of a run's checkpoints, and which of them are kept.

    An unscheduled checkpoint, which another run of the same would not have, counts as nothing but
    the newest.

    >>> retention = Retention(last=1, every=None, best=lambda scores: scores.get("accuracy"))
    >>> for step, accuracy in ((1, 0.2), (2, 0.4), (3, 0.3), (4, math.nan)):
    ...     retention.note(step, {"accuracy": accuracy}, unscheduled=False)
    >>> sorted(retention.kept([1, 2, 3, 4])), retention.best_step()
    ([2, 4], 2)
    """

    def __init__(
        self,
        last: int = 1,
        every: int | None = None,
        best: Callable[[Mapping[str, Any]], float | None] = lambda scores: None,
    ):
        """Set the rules.

        Args:
            last: Number of the newest checkpoints to keep.
            every: Keep for good every checkpoint whose step is a multiple of this.
            best: Makes a number of a checkpoint's scores, or None; the highest is kept.
        """
        self._last, self._every, self._best = last, every, best
        self._scores: dict[int, float] = {}
        self._unscheduled: set[int] = set()

    def note(self, step: int, scores: Mapping[str, Any], *, unscheduled: bool) -> None:
        """Take in a checkpoint; a score that is not finite does not count.

        Args:
            step: Its number.
            scores: Its scores.
            unscheduled: Whether no schedule asked for it.
        """
        score = self._best(scores)
        if score is not None and math.isfinite(score):
            self._scores[step] = score
        (self._unscheduled.add if unscheduled else self._unscheduled.discard)(step)

    def forget(self, step: int) -> None:
        """Drop what was known of a checkpoint that is gone."""
        self._scores.pop(step, None)
        self._unscheduled.discard(step)

    def best_step(self) -> int | None:
        """Return the checkpoint with the highest score among those that have one."""
        return max(self._scores, key=self._rank) if self._scores else None

    def _rank(self, step: int) -> tuple[float, int]:
        return self._scores[step], step

    def scheduled(self, steps: Iterable[int]) -> list[int]:
        """List `steps` without the unscheduled ones."""
        return [step for step in steps if step not in self._unscheduled]

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Return those of `steps`, oldest first, that are kept."""
        scheduled = self.scheduled(steps)
        kept = {step for step in scheduled if self._every and step % self._every == 0}
        kept |= {*scheduled[-self._last :], *steps[-1:]}
        scored = [step for step in scheduled if step in self._scores]
        return kept | ({max(scored, key=self._rank)} if scored else set())

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Answer the same in the form that orbax asks for."""
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
