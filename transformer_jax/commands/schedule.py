"""schedule: show a learning rate schedule."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import ConfigFile, Preset
from transformer_jax.commands.output import check_picture
from transformer_jax.config import RunConfig

__all__ = ["ScheduleCommand"]


@dataclass(frozen=True)
class ScheduleCommand:
    """Show the learning rate of a configuration over its steps (section 5.3)."""

    preset: Preset = "base"
    config_file: ConfigFile = None
    output: Path | None = None
    """Picture to write: .png, .svg or .pdf."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.visualization.schedule import rates, schedule_curve

        output = None if self.output is None else check_picture(self.output)
        print(f"{'step':>8}  learning rate")
        for step, rate in rates(self.config):
            print(f"{step:8}  {rate:.6g}")
        if output is not None:
            schedule_curve(self.config).savefig(output)
            print(output)
