"""Optimizer settings that a run was given after it had started."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformer_jax.config import OptimizerConfig

__all__ = ["OptimizerChange", "changed_settings", "optimizer_at"]


@dataclass(frozen=True)
class OptimizerChange:
    """The settings of a run were changed.

    Attributes:
        step: The last update that was made with those before.
        before: The settings before.
        scheduled: Whether the checkpoint of that step was one of the schedule's, or the run had
            been stopped there.
    """

    step: int
    before: OptimizerConfig
    scheduled: bool = True

    def __post_init__(self):
        if self.step < 0:
            raise ValueError(f"no settings change after update {self.step}")


def optimizer_at(
    newest: OptimizerConfig, changes: Sequence[OptimizerChange], step: int
) -> OptimizerConfig:
    """Return the settings with which update step + 1 is made.

    Args:
        newest: The settings after the last change.
        changes: The changes, in the order of their steps.
        step: Updates before.

    >>> changes = [OptimizerChange(10, OptimizerConfig(lr_factor=1.0))]
    >>> [optimizer_at(OptimizerConfig(lr_factor=0.5), changes, n).lr_factor for n in (9, 10)]
    [1.0, 0.5]
    """
    return next((each.before for each in changes if step < each.step), newest)


def changed_settings(
    newest: OptimizerConfig, changes: Sequence[OptimizerChange]
) -> list[tuple[int, dict[str, Any]]]:
    """List (step, settings that have other values from there on) of each change.

    Args:
        newest: The settings after the last change.
        changes: The changes, in the order of their steps.

    >>> changes = [OptimizerChange(10, OptimizerConfig(lr_factor=1.0))]
    >>> changed_settings(OptimizerConfig(lr_factor=0.5), changes)
    [(10, {'lr_factor': 0.5})]
    """
    settings = [asdict(each) for each in (*(change.before for change in changes), newest)]
    return [
        (change.step, {name: new[name] for name in new if new[name] != old[name]})
        for change, old, new in zip(changes, settings, settings[1:])
    ]
