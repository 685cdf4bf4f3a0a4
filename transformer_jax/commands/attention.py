"""attention: draw what heads attend to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformer_jax.commands.options import Checkpoint, RunDir
from transformer_jax.commands.output import check_picture, check_suffix

__all__ = ["AttentionCommand"]


@dataclass(frozen=True)
class AttentionCommand:
    """Draw what a head attends to in a sentence pair, or write a page with all heads."""

    run_dir: RunDir
    source: str
    """Source sentence."""
    target: str | None = None
    """Translation of the source; None is the model's own."""
    part: Literal["encoder", "decoder", "cross"] = "cross"
    """Attention in the picture: self-attention of encoder or decoder, or cross-attention."""
    layer: int = 1
    """Layer in the picture, from 1."""
    head: int | None = None
    """Head in the picture, from 1; None is the mean of all heads."""
    output: Path | None = None
    """Picture to write: .png, .svg or .pdf; None is attention.png, unless --html is given."""
    html: Path | None = None
    """Page to write, .html, with all parts, layers and heads; it needs no network."""
    checkpoint: Checkpoint = "averaged"

    def run(self) -> None:
        from transformer_jax.translator import Translator
        from transformer_jax.visualization.attention import draw_head
        from transformer_jax.visualization.page import attention_page

        output = self.output
        if output is None and self.html is None:
            output = Path("attention.png")
        if output is not None:
            check_picture(output)
        if self.html is not None:
            check_suffix(self.html, "page", ".html", ".htm")
        maps = Translator.load(self.run_dir, self.checkpoint).attention(self.source, self.target)
        if output is not None:
            draw_head(maps, self.part, self.layer, self.head).savefig(output, dpi=120)
            print(output)
        if self.html is not None:
            self.html.write_text(attention_page(maps), encoding="utf-8", newline="\n")
            print(self.html)
