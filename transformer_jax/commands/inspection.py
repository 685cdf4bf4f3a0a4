"""inspect, schedule, attention: commands that show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformer_jax.commands.training import ConfigFile
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError

__all__ = ["Attention", "Inspect", "Schedule"]


@dataclass(frozen=True)
class Inspect:
    """Show a run: configuration, parameters, checkpoints and whether they are sound."""

    run_dir: Path
    """Folder of a run."""
    other: Path | None = None
    """Show instead where the run differs from that of this folder."""

    def run(self) -> None:
        from transformer_jax.inspection import difference, report

        print(report(self.run_dir) if self.other is None else difference(self.run_dir, self.other))


@dataclass(frozen=True)
class Schedule:
    """Show the learning rate of a configuration over its steps (section 5.3)."""

    preset: str = "base"
    """Configuration to start from: tiny, multi30k, base, big, table3-ROW (as table3-B-dk-16)."""
    config_file: ConfigFile = None
    """Instead of a preset: a run's config.json, or what `train --print-config` printed."""
    output: Path | None = None
    """Picture to write too: .png, .svg or .pdf."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.visualization.schedule import rates, schedule_curve

        print(f"{'step':>8}  learning rate")
        for step, rate in rates(self.config):
            print(f"{step:8}  {rate:.6g}")
        if self.output is not None:
            schedule_curve(self.config).savefig(_picture(self.output))


@dataclass(frozen=True)
class Attention:
    """Draw what a head attends to in a sentence pair."""

    run_dir: Path
    """Folder of a trained run."""
    source: str
    """Sentence to read."""
    target: str | None = None
    """Its translation; None is the model's own."""
    part: Literal["encoder", "decoder", "cross"] = "cross"
    """Self-attention of encoder or decoder, or from the decoder to the encoder."""
    layer: int = 1
    """From 1."""
    head: int | None = None
    """From 1; None is the mean of all heads."""
    output: Path = Path("attention.png")
    """Picture to write: .png, .svg or .pdf."""
    checkpoint: str = "averaged"
    """averaged (the newest where there is no average), best, last, or a step."""

    def run(self) -> None:
        from transformer_jax.translator import Translator
        from transformer_jax.visualization.attention import draw

        output = _picture(self.output)
        seen = Translator.load(self.run_dir, self.checkpoint).attention(self.source, self.target)
        draw(seen, self.part, self.layer, self.head).savefig(output, dpi=120)
        print(output)


def _picture(path: Path) -> Path:
    known = (".png", ".svg", ".pdf")
    if path.suffix.lower() not in known:
        raise UserError(f"{path} is no picture that can be written: end it in {', '.join(known)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent}: make it first")
    return path
