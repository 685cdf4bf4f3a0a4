"""inspect: show what is in a run."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import RunDir

__all__ = ["InspectCommand"]


@dataclass(frozen=True)
class InspectCommand:
    """Show a run: configuration, parameters, checkpoints and whether they are intact."""

    run_dir: RunDir
    other: Path | None = None
    """Show instead where the run differs from that of this folder."""

    def run(self) -> None:
        from transformer_jax.run.inspect import compare_runs, describe_run

        if self.other is None:
            print(describe_run(self.run_dir))
        else:
            print(compare_runs(self.run_dir, self.other))
