"""inspect: show what is in a run."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import RunDir

__all__ = ["InspectCommand"]


@dataclass(frozen=True)
class InspectCommand:
    """Show a run: its configuration, its parameters, and whether its checkpoints are intact."""

    run_dir: RunDir
    other: Path | None = None
    """Another run folder: show where the two runs differ."""

    def run(self) -> None:
        from transformer_jax.run.inspect import compare_runs, describe_run

        if self.other is None:
            print(describe_run(self.run_dir))
        else:
            print(compare_runs(self.run_dir, self.other))
