"""translate, score, evaluate: commands that read text."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from transformer_jax.commands.options import Checkpoint, RunDir, check_writable
from transformer_jax.config.languages import check_language
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError

__all__ = ["Evaluate", "Score", "Translate"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Translate:
    """Translate lines, one out for each one in, in order.

    What is typed at a terminal is translated line by line, anything else 1,024 lines at a time.
    Packed text is unpacked, and an output that ends in .gz, .xz, .bz2 or .zst is packed.

    With --n-best above 1 each line has several: NUMBER ||| TRANSLATION ||| SCORE.
    """

    run_dir: RunDir
    input: Path | None = None
    """File to translate; None is standard input."""
    output: Path | None = None
    """File to write; None is standard output."""
    scores: bool = False
    """Write NUMBER ||| TRANSLATION ||| SCORE where there is one translation too."""
    split_sentences: Literal["auto", "always", "never"] = "auto"
    """auto translates a line sentence by sentence where it holds more of them than the lines that
    the model was trained on."""
    line_buffered: bool = False
    """Answer each line as it comes, for a program that waits for it."""
    checkpoint: Checkpoint = "averaged"
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.translator import Translator

        if self.output is not None:
            _check_output(self.output, *([] if self.input is None else [self.input]))
            check_writable(self.output)
        translator = Translator.load(self.run_dir, self.checkpoint)
        log.info("translating with %s, %s", self.run_dir, translator.checkpoint)
        source: BinaryIO
        with contextlib.ExitStack() as opened:
            if self.input is not None:
                name, source = str(self.input), opened.enter_context(self.input.open("rb"))
            else:
                name, source = "standard input", _standard(sys.stdin, "input").buffer
            # Opened last: what it holds is lost only when there is something to write.
            output = opened.enter_context(_opened_output(self.output))
            translator.translate_stream(
                source,
                output,
                self.search,
                name=name,
                line_by_line=self.line_buffered or source.isatty(),
                scores=self.scores,
                split_sentences=self.split_sentences,
            )


def _check_output(output: Path, *inputs: Path) -> None:
    """What is read is not written over."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise UserError(f"{output} is to be read and written: name another --output")


@contextlib.contextmanager
def _opened_output(path: Path | None) -> Iterator[BinaryIO]:
    """A file open for writing bytes, packed as its name says, or standard output.

    UserError where it does not take all.
    """
    from transformer_jax.data.packing import open_packed

    output = _standard(sys.stdout, "output").buffer if path is None else open_packed(path)
    try:
        yield output
        output.flush()
        if path is not None:
            output.close()
    except BrokenPipeError:
        raise
    except OSError as error:
        place = path or "standard output"
        raise UserError(f"{place} cannot be written: {error.strerror}") from None
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                output.close()  # or it would try once more


def _standard(stream: TextIO, name: str) -> TextIO:
    """Standard input or output; `at_a_terminal` puts the null device where there is none."""
    if getattr(stream, "name", None) == os.devnull:
        raise UserError(f"there is no standard {name}: name a file with --{name}")
    return stream


@dataclass(frozen=True)
class Score:
    """Print the log-probability (nats, end of sentence included) of each translation given."""

    run_dir: RunDir
    test: tuple[Path, Path]
    """Source and translation file."""
    checkpoint: Checkpoint = "averaged"

    def run(self) -> None:
        from transformer_jax.data.text import TextFiles
        from transformer_jax.translator import Translator

        translator = Translator.load(self.run_dir, self.checkpoint)
        for log_prob in translator.score_stream(TextFiles(*map(str, self.test))):
            print(f"{log_prob:.4f}")


@dataclass(frozen=True)
class Evaluate:
    """Translate a test set and print every score with its signature."""

    run_dir: RunDir
    test: tuple[Path, Path] | None = None
    """Source and reference file."""
    split: str | None = None
    """Instead of files: a split of the dataset that the run was trained on, as test."""
    checkpoint: Checkpoint = "averaged"
    language: str | None = None
    """Language of the references, which decides how scores cut words; None is the run's target
    language."""
    output: Path | None = None
    """File to write the translations to."""
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.data.text import ParallelText, TextError, TextFiles
        from transformer_jax.run.splits import dataset_splits
        from transformer_jax.translator import Translator

        if (self.test is None) == (self.split is None):
            raise UserError(
                "what to evaluate on: give --test SOURCE REFERENCE or --split NAME, and not both"
            )
        text: ParallelText
        if self.test is not None:
            text = TextFiles(str(self.test[0]), str(self.test[1]))
        else:
            splits = dataset_splits(self.run_dir)
            if self.split not in splits:
                raise UserError(
                    f"the dataset of {self.run_dir} has no split {self.split!r}; it has "
                    f"{', '.join(splits)}"
                )
            text = splits[self.split]
        if self.language is not None:
            check_language(self.language)
        translator = Translator.load(self.run_dir, self.checkpoint)
        if self.output is not None:
            _check_output(self.output, *(self.test or ()))
            check_writable(self.output)
        pairs = list(text)
        if not pairs:
            raise TextError(f"{text} hold no lines to evaluate on")
        sources, references = zip(*pairs)
        result = translator.evaluate(sources, references, self.search, language=self.language)
        print(result)
        if self.output is not None:
            with _opened_output(self.output) as file:
                file.write("".join(f"{line}\n" for line in result.translations).encode())
