"""inspect, schedule, attention: commands that show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformer_jax.commands.options import (
    Checkpoint,
    ConfigFile,
    Preset,
    RunDir,
    check_writable,
)
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError

__all__ = ["Attention", "Inspect", "Schedule"]


@dataclass(frozen=True)
class Inspect:
    """Show a run: configuration, parameters, checkpoints and whether they are sound."""

    run_dir: RunDir
    other: Path | None = None
    """Show instead where the run differs from that of this folder."""

    def run(self) -> None:
        from transformer_jax.run.inspect import difference, report

        print(report(self.run_dir) if self.other is None else difference(self.run_dir, self.other))


@dataclass(frozen=True)
class Schedule:
    """Show the learning rate of a configuration over its steps (section 5.3)."""

    preset: Preset = "base"
    config_file: ConfigFile = None
    output: Path | None = None
    """Picture to write too: .png, .svg or .pdf."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.visualization.schedule import rates, schedule_curve

        output = None if self.output is None else _picture(self.output)
        print(f"{'step':>8}  learning rate")
        for step, rate in rates(self.config):
            print(f"{step:8}  {rate:.6g}")
        if output is not None:
            schedule_curve(self.config).savefig(output)
            print(output)


@dataclass(frozen=True)
class Attention:
    """Draw what a head attends to in a sentence pair, or write a page with every head."""

    run_dir: RunDir
    source: str
    """Sentence to read."""
    target: str | None = None
    """Its translation; None is the model's own."""
    part: Literal["encoder", "decoder", "cross"] = "cross"
    """Of the picture: self-attention of encoder or decoder, or from the decoder to the encoder."""
    layer: int = 1
    """Of the picture, from 1."""
    head: int | None = None
    """Of the picture, from 1; None is the mean of all heads."""
    output: Path | None = None
    """Picture to write: .png, .svg or .pdf; None is attention.png, unless there is a page."""
    html: Path | None = None
    """Page to write, .html: all parts, layers and heads to choose from; needs no network."""
    checkpoint: Checkpoint = "averaged"

    def run(self) -> None:
        from transformer_jax.translator import Translator
        from transformer_jax.visualization.attention import draw
        from transformer_jax.visualization.page import attention_page

        output = self.output
        if output is None and self.html is None:
            output = Path("attention.png")
        if output is not None:
            _picture(output)
        if self.html is not None:
            _ends_in(self.html, "page", ".html", ".htm")
        seen = Translator.load(self.run_dir, self.checkpoint).attention(self.source, self.target)
        if output is not None:
            draw(seen, self.part, self.layer, self.head).savefig(output, dpi=120)
            print(output)
        if self.html is not None:
            self.html.write_text(attention_page(seen), encoding="utf-8", newline="\n")
            print(self.html)


def _picture(path: Path) -> Path:
    return _ends_in(path, "picture", ".png", ".svg", ".pdf")


def _ends_in(path: Path, what: str, *known: str) -> Path:
    if path.suffix.lower() not in known:
        raise UserError(f"{path} is no {what} that can be written: end it in {', '.join(known)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent}: make it first")
    check_writable(path)
    return path
