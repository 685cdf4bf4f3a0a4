"""The command line: typed options from the configuration dataclasses, one function a command.

Heavy imports happen inside the commands, so that --help answers at once.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError
from transformer_jax.search import Search

__all__ = ["at_a_terminal", "main"]

log = logging.getLogger("transformer_jax.cli")

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Train:
    """Train a model, or go on where its run folder stopped."""

    run_dir: Path
    """Folder of the run: made if missing, continued if there."""
    preset: str = "base"
    """Configuration to start from: tiny, multi30k, base, big, table3-ROW (as table3-B-dk-16)."""
    init_from: Path | None = None
    """Run folder whose parameters a new run starts from."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.job import train

        train(self.config, self.run_dir, init_from=self.init_from)
        print(self.run_dir)


@dataclass(frozen=True)
class Prepare:
    """Train the vocabulary and tokenise the text into a folder that `train --corpus` reads."""

    output: Path
    """Folder to write."""
    preset: str = "base"
    """Configuration to start from: tiny, multi30k, base, big, table3-ROW (as table3-B-dk-16)."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.data.preparation import prepare

        print(prepare(self.config.data, self.config.model.vocab_size, self.output))


@dataclass(frozen=True)
class Translate:
    """Translate standard input to standard output, one line out for each line in.

    With --n-best above 1 each line has several: NUMBER ||| TRANSLATION ||| SCORE.
    """

    run_dir: Path
    """Folder of a trained run."""
    checkpoint: str = "averaged"
    """averaged (the newest where there is no average), best, last, or a step."""
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.translator import Translator

        translator = Translator.load(self.run_dir, self.checkpoint)
        log.info("translating with %s, %s", self.run_dir, translator.checkpoint)
        translator.translate_stream(
            sys.stdin.buffer, sys.stdout.buffer, self.search, line_by_line=sys.stdin.isatty()
        )


@dataclass(frozen=True)
class Evaluate:
    """Translate a test set and print every score with its signature."""

    run_dir: Path
    """Folder of a trained run."""
    test: tuple[Path, Path] | None = None
    """Source and reference file."""
    split: str | None = None
    """Instead of files: a split of the dataset that the run was trained on, as test."""
    checkpoint: str = "averaged"
    """averaged (the newest where there is no average), best, last, or a step."""
    language: str | None = None
    """Language of the references, for the Moses tokeniser; None is the run's target language."""
    output: Path | None = None
    """File to write the translations to."""
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.data.text import ParallelText, TextFiles
        from transformer_jax.run import Run
        from transformer_jax.testset import dataset_splits, evaluate
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
        language = self.language or Run.open(self.run_dir).config.data.direction.partition("-")[2]
        translator = Translator.load(self.run_dir, self.checkpoint)
        if self.output is not None:
            self.output.touch()  # a folder that is not there is known before the work, not after
        result = evaluate(translator, text, self.search, language)
        print(result)
        if self.output is not None:
            lines = "".join(f"{line}\n" for line in result.translations)
            self.output.write_text(lines, encoding="utf-8", newline="\n")


COMMANDS = {"train": Train, "prepare": Prepare, "translate": Translate, "evaluate": Evaluate}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `transformer-jax`; exits non-zero with one line on bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with at_a_terminal():
        command = tyro.cli(
            Flat[_union(arguments)],  # type: ignore[misc]
            prog="transformer-jax",
            description='The Transformer of "Attention Is All You Need".',
            args=arguments,
        )
        command.run()


@contextlib.contextmanager
def at_a_terminal() -> Iterator[None]:
    """Messages go to standard error; what the user can mend ends the process with one of them."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("transformer_jax").setLevel(logging.INFO)
    # Orbax logs failures that it raises too; those reach the user once, in our words.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        yield
    except UserError as error:
        sys.exit(f"transformer-jax: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"transformer-jax: {where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("transformer-jax: interrupted", file=sys.stderr)
        sys.stdout.flush()
        # XLA may still be compiling in threads of its own, and crashes if Python goes down first.
        os._exit(130)


def _union(arguments):
    """The subcommands as a type; options default to the preset or to the run that goes on."""
    import functools
    import operator

    config = _starting_point(arguments)
    members = []
    for name, command in COMMANDS.items():
        fields = {"config": config} if hasattr(command, "config") else {}
        required = {
            f.name: tyro.MISSING
            for f in dataclasses.fields(command)
            if f.default is dataclasses.MISSING
        }
        default = command(**required, **fields)
        subcommand = tyro.conf.subcommand(name, default=default)
        members.append(Annotated[command, subcommand])
    return functools.reduce(operator.or_, members)


def _starting_point(arguments: list[str]) -> RunConfig:
    """--preset if it is given; else the configuration of an existing --run-dir; else base."""
    preset = _value_of("--preset", arguments)
    run_dir = _value_of("--run-dir", arguments)
    if preset is None and arguments[:1] == ["train"] and run_dir is not None:
        path = Path(run_dir) / "config.json"
        if path.is_file():
            from transformer_jax.run import Run

            return Run.open(Path(run_dir)).config
    return presets.recipe(preset or "base")


def _value_of(option: str, arguments: list[str]) -> str | None:
    for word, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            return value if equals else following
    return None


if __name__ == "__main__":
    main()
