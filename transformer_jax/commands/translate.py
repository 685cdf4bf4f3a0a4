"""translate: translate lines of text."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformer_jax.commands.options import Checkpoint, RunDir
from transformer_jax.commands.output import check_streams, opened_streams
from transformer_jax.config.model import Dtype
from transformer_jax.decoding.options import Search

__all__ = ["TranslateCommand"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TranslateCommand:
    """Translate lines: one line out for each line in, in order.

    Input from a terminal is translated line by line, other input 1,024 lines at a time.
    Compressed input is decompressed; an output ending in .gz, .xz, .bz2 or .zst is compressed.

    With --n-best above 1 there are several lines for each: NUMBER ||| TRANSLATION ||| SCORE.
    """

    run_dir: RunDir
    input: Path | None = None
    """File to translate; None is standard input."""
    output: Path | None = None
    """File to write; None is standard output."""
    scores: bool = False
    """Write NUMBER ||| TRANSLATION ||| SCORE for a single translation, too."""
    split_sentences: Literal["auto", "always", "never"] = "auto"
    """Whether to translate a line sentence by sentence; auto does where it holds more sentences
    than the lines that the model was trained on."""
    line_buffered: bool = False
    """Write each translation before the next line is read, for programs that wait for it."""
    checkpoint: Checkpoint = "averaged"
    dtype: Dtype | None = None
    """Dtype of the computation; None is that of training. With bfloat16 a Transformer translates
    batches faster where the processor multiplies it, and a few translations differ."""
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.translator import Translator

        check_streams(self.input, self.output)
        translator = Translator.load(self.run_dir, self.checkpoint, self.dtype)
        log.info("translating with %s, %s", self.run_dir, translator.checkpoint)
        with opened_streams(self.input, self.output) as (name, source, output):
            translator.translate_stream(
                source,
                output,
                self.search,
                name=name,
                line_by_line=self.line_buffered or source.isatty(),
                scores=self.scores,
                split_sentences=self.split_sentences,
            )
