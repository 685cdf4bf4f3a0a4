"""inspect: show what is in a run."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import RunDir

__all__ = ["InspectCommand"]


@dataclass(frozen=True)
class InspectCommand:
    """Show a run: configuration, parameters, checkpoints and whether they are sound."""

    run_dir: RunDir
    other: Path | None = None
    """Show instead where the run differs from that of this folder."""

    def run(self) -> None:
        from transformer_jax.run.inspect import difference, report

        print(report(self.run_dir) if self.other is None else difference(self.run_dir, self.other))
