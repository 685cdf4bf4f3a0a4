"""average: average a run's checkpoints."""

from dataclasses import dataclass

from transformer_jax.commands.options import RunDir
from transformer_jax.run.names import AVERAGED

__all__ = ["AverageCommand"]


@dataclass(frozen=True)
class AverageCommand:
    """Average a run's checkpoints; translation then uses the average (section 6.1)."""

    run_dir: RunDir
    last: int = 5
    """Number of the newest checkpoints to average."""
    steps: tuple[int, ...] = ()
    """Steps of the checkpoints to average instead."""

    def run(self) -> None:
        from transformer_jax.run.average import average
        from transformer_jax.run.folder import Run

        steps = average(self.run_dir, last=self.last, steps=self.steps)
        folder = Run.open(self.run_dir).checkpoint_root / AVERAGED
        print(f"{folder}: mean of {', '.join(map(str, steps))}")
