"""import: make a run folder of another toolkit's model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["ImportCommand"]


@dataclass(frozen=True)
class ImportCommand:
    """Make a run folder of another toolkit's model, which nothing of the source is needed for
    afterwards."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """The model: a folder of Hugging Face's Marian (as OPUS-MT's) or of CTranslate2; a file .npz or
    .bin of Marian, or .pt of fairseq, with its vocabulary beside it; or a .safetensors of ours."""
    run_dir: Path
    """The run folder to make."""
    source_tag: str | None = None
    """A token that every source begins with, as >>deu<< in models of several target languages."""

    def run(self) -> None:
        from transformer_jax.weights.imports import import_model

        run = import_model(self.model, self.run_dir, self.source_tag)
        print(f"{run.folder}: imported from {self.model}")
