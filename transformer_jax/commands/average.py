"""average: average a run's checkpoints."""

from dataclasses import dataclass

from transformer_jax.commands.options import RunDir

__all__ = ["AverageCommand"]


@dataclass(frozen=True)
class AverageCommand:
    """Write the mean of a run's checkpoints, which it then translates with (section 6.1)."""

    run_dir: RunDir
    last: int = 5
    """The newest so many checkpoints."""
    steps: tuple[int, ...] = ()
    """Instead: the checkpoints of these steps."""

    def run(self) -> None:
        from transformer_jax.run.average import average

        steps = average(self.run_dir, last=self.last, steps=self.steps)
        print(f"{self.run_dir / 'averaged'}: mean of {', '.join(map(str, steps))}")
