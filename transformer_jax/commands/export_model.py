"""export: write a run's model for another toolkit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from transformer_jax.commands.options import Checkpoint, RunDir

__all__ = ["ExportCommand"]


@dataclass(frozen=True)
class ExportCommand:
    """Write a run's model for another toolkit (Hugging Face's Marian, CTranslate2, Marian), or as
    one file for a colleague."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write, or the file of safetensors."""
    run_dir: RunDir
    format: Literal["huggingface", "ctranslate2", "marian", "stablehlo", "safetensors"]
    """huggingface: what MarianMTModel and MarianTokenizer load; ctranslate2: what
    ctranslate2.Translator loads; marian: model.npz with its vocabulary; stablehlo: programs that
    jax.export loads, which score and search; safetensors: one file with the vocabulary and the
    configuration, which import and Translator.load take."""
    checkpoint: Checkpoint = "averaged"
    dtype: Literal["float32", "float16", "bfloat16", "int16", "int8"] = "float32"
    """Of the weights; all but float32 for ctranslate2 alone."""

    def run(self) -> None:
        from transformer_jax.weights.exports import export_model

        difference = export_model(
            self.run_dir, self.format, self.out, checkpoint=self.checkpoint, dtype=self.dtype
        )
        print(f"{self.out}: exported from {self.run_dir} as {self.format}")
        if difference:
            print(
                "its norms have another epsilon there: log-probabilities of random sentences "
                f"differ by at most {difference:.1e}"
            )
