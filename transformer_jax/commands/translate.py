"""translate: translate lines of text."""

import contextlib
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from transformer_jax.commands.options import Checkpoint, RunDir
from transformer_jax.commands.output import (
    check_output,
    check_writable,
    opened_output,
    standard_stream,
)
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError

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
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.translator import Translator

        if self.output is not None:
            check_output(self.output, *([] if self.input is None else [self.input]))
            check_writable(self.output)
        if self.input is not None and not self.input.exists():
            raise UserError(f"--input {self.input} does not exist: give a file of lines")
        translator = Translator.load(self.run_dir, self.checkpoint)
        log.info("translating with %s, %s", self.run_dir, translator.checkpoint)
        source: BinaryIO
        with contextlib.ExitStack() as opened:
            if self.input is not None:
                name, source = str(self.input), opened.enter_context(self.input.open("rb"))
            else:
                name, source = "standard input", standard_stream(sys.stdin, "input").buffer
            # Opened last: what it holds is lost only when there is something to write.
            output = opened.enter_context(opened_output(self.output))
            translator.translate_stream(
                source,
                output,
                self.search,
                name=name,
                line_by_line=self.line_buffered or source.isatty(),
                scores=self.scores,
                split_sentences=self.split_sentences,
            )
