"""What the programs of experiments share: options of where they write, and how they end."""

import argparse
from pathlib import Path

from experiments.ledger import Entry, publish
from transformer_jax.errors import UserError

__all__ = ["check_positive", "make_parser", "publish_result", "refuse_old_options"]


class _Renamed(argparse.Action):
    """An option that is called otherwise now: an error that names the new one."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is now {self.metavar}")


def make_parser(description: str | None, output: str | None = None) -> argparse.ArgumentParser:
    """A parser whose --help is the first line of a module's docstring.

    It has --results-dir and, where a default `output` is named, --output.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    beside = "next to the output"
    if output is not None:
        parser.add_argument("--output", type=Path, default=Path(output), help="folder to write")
        beside = "--output"
    parser.add_argument("--results-dir", type=Path, help=f"folder of the result; default: {beside}")
    refuse_old_options(parser)
    return parser


def refuse_old_options(parser: argparse.ArgumentParser) -> None:
    """Have a parser name the new option where an old one is given."""
    parser.add_argument(
        "--ledger", action=_Renamed, metavar="--results-dir", help=argparse.SUPPRESS
    )


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raise UserError for an option that was given and is not positive."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be positive")


def publish_result(name: str, entry: Entry, arguments: argparse.Namespace) -> None:
    """Print an entry's tables and write it to --results-dir, else to `arguments.output`."""
    publish(name, entry, arguments.results_dir or arguments.output)
