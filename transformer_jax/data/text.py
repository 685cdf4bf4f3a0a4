r"""Plain text files: UTF-8, one sentence a line, lines end at "\n" and nowhere else."""

import itertools
import os
from collections.abc import Iterable, Iterator

from transformer_jax.errors import UserError

__all__ = ["TextError", "decode_lines", "read_lines", "read_pairs"]


class TextError(UserError):
    """Text that cannot be used; the message names the file, the line and the remedy."""


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    r"""Lines of a UTF-8 file without their "\n" (and "\r\n" counts as one end of line).

    Unicode line separators and form feeds stay inside a line: `str.splitlines` would shift
    every later pair of newstest2009 by eight lines.
    """
    try:
        with open(path, "rb") as file:
            yield from decode_lines(file, path)
    except OSError as error:
        raise TextError(f"{path}: {error.strerror}") from None


def decode_lines(file: Iterable[bytes], name: str | os.PathLike) -> Iterator[str]:
    """Lines of an open binary file, as `read_lines` gives them; `name` is for its errors."""
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"{name}, line {number}: byte {error.start} is not UTF-8; "
                "convert the text, for example with iconv -t utf-8"
            ) from None
        yield line.removesuffix("\n").removesuffix("\r")


def read_pairs(source: str | os.PathLike, target: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """Line pairs of two files; files of different length are an error that gives both counts."""
    end = object()
    pairs = itertools.zip_longest(read_lines(source), read_lines(target), fillvalue=end)
    for number, (left, right) in enumerate(pairs):
        if left is end or right is end:
            rest = 1 + sum(1 for _ in pairs)
            longer, shorter = (source, target) if right is end else (target, source)
            raise TextError(
                f"{longer} has {number + rest} lines but {shorter} has {number}: "
                "line n of one must translate line n of the other"
            )
        yield left, right  # type: ignore[misc]
