"""What commands write: checked before the work, and how it is opened."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from transformer_jax.errors import UserError

__all__ = [
    "check_output",
    "check_picture",
    "check_streams",
    "check_suffix",
    "check_writable",
    "opened_output",
    "opened_streams",
    "standard_stream",
]


def check_writable(path: Path) -> None:
    """Raise OSError for a file that cannot be written, before the work; nothing is left behind.

    A pipe or a device is not tried: its reader would take that for the end.
    """
    if not path.exists():
        path = path.resolve()  # a link may point to what is not there yet
        path.open("ab").close()
        path.unlink()
    elif path.is_file() or path.is_dir():
        path.open("ab").close()


def check_output(output: Path, *inputs: Path) -> None:
    """Raise UserError if an output is one of the inputs."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise UserError(f"{output} is both input and output: give another --output")


def check_streams(input: Path | None, output: Path | None) -> None:
    """Raise UserError where lines cannot be read from one file and written to the other."""
    if output is not None:
        check_output(output, *([] if input is None else [input]))
        check_writable(output)
    if input is not None and not input.exists():
        raise UserError(f"--input {input} does not exist: give a file of lines")


@contextlib.contextmanager
def opened_streams(
    input: Path | None, output: Path | None
) -> Iterator[tuple[str, BinaryIO, BinaryIO]]:
    """Open what lines are read from and written to: files, or standard input and output.

    Yields what errors call the input, the input and the output.
    """
    source: BinaryIO
    with contextlib.ExitStack() as opened:
        if input is not None:
            name, source = str(input), opened.enter_context(input.open("rb"))
        else:
            name, source = "standard input", standard_stream(sys.stdin, "input").buffer
        # Opened last: what it holds is lost only when there is something to write.
        yield name, source, opened.enter_context(opened_output(output))


@contextlib.contextmanager
def opened_output(path: Path | None) -> Iterator[BinaryIO]:
    """Open a file for writing bytes, compressed as its name says, or standard output.

    Raises UserError where it cannot take everything.
    """
    from transformer_jax.data.compression import open_compressed

    output = standard_stream(sys.stdout, "output").buffer if path is None else open_compressed(path)
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


def standard_stream(stream: TextIO, name: str) -> TextIO:
    """Return standard input or output; UserError where there is none.

    `command_errors` puts the null device in place of a missing one.
    """
    if getattr(stream, "name", None) == os.devnull:
        raise UserError(f"there is no standard {name}: name a file with --{name}")
    return stream


def check_picture(path: Path) -> Path:
    """Check that a picture can be written to a path; UserError where not."""
    return check_suffix(path, "picture", ".png", ".svg", ".pdf")


def check_suffix(path: Path, what: str, *known: str) -> Path:
    """Check that a file of some kind can be written to a path; UserError where not.

    Args:
        path: The file.
        what: What the message calls it.
        *known: Suffixes that are possible.
    """
    if path.suffix.lower() not in known:
        raise UserError(f"{path} is not a {what} file: end its name in {', '.join(known)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent}: make it first")
    check_writable(path)
    return path
