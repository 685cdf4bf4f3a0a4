r"""Plain text files: UTF-8, one sentence a line, lines end at "\n" and nowhere else."""

import gzip
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from transformer_jax.errors import UserError

__all__ = [
    "ParallelText",
    "TextError",
    "TextFiles",
    "decode_lines",
    "digest",
    "read_lines",
    "read_pairs",
    "read_table",
]


class ParallelText(Protocol):
    """Line pairs that may be read again and again; `str` names them in messages."""

    @property
    def identity(self) -> str:
        """Equal for equal text; does not depend on where the text lies."""

    def __iter__(self) -> Iterator[tuple[str, str]]: ...


@dataclass(frozen=True)
class TextFiles:
    """Two files, line n of one translating line n of the other."""

    source: str
    target: str

    @property
    def identity(self) -> str:
        return f"{digest(self.source)} {digest(self.target)}"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return read_pairs(self.source, self.target)

    def __str__(self) -> str:
        return f"{self.source} and {self.target}"


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TextError(f"{path}: {error.strerror}") from None


class TextError(UserError):
    """Text that cannot be used; the message names the file, the line and the remedy."""


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    r"""Lines of a UTF-8 file without their "\n" (and "\r\n" counts as one end of line).

    Unicode line separators and form feeds stay inside a line: `str.splitlines` would shift
    every later pair of newstest2009 by eight lines. A file named *.gz is unpacked.
    """
    opened = gzip.open if str(path).endswith(".gz") else open
    try:
        file = opened(path, "rb")
    except OSError as error:
        raise TextError(f"{path}: {error.strerror}") from None
    with file:
        yield from decode_lines(file, path)


def decode_lines(file: Iterable[bytes], name: str | os.PathLike) -> Iterator[str]:
    """Lines of an open binary file, as `read_lines` gives them; `name` is for its errors."""
    try:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise TextError(
                    f"{name}, line {number}: byte {error.start} is not UTF-8; "
                    "convert the text, for example with iconv -t utf-8"
                ) from None
            yield line.removesuffix("\n").removesuffix("\r")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TextError(f"{name} cannot be unpacked ({error}): copy it again") from None
    except OSError as error:
        raise TextError(f"{name} cannot be read: {error.strerror}") from None


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


def read_table(path: str | os.PathLike, source: str, target: str) -> Iterator[tuple[str, str]]:
    """Pairs of two columns of a file whose fields are separated by tabs.

    Its first line names the columns, by their languages for one. Fields hold no quotes that mean
    anything: a tab is always the end of one.
    """
    lines = read_lines(path)
    names = next(lines, "").split("\t")
    places = []
    for name in (source, target):
        if names.count(name) != 1:
            raise TextError(
                f"{path}, line 1: of the columns {', '.join(map(repr, names))} exactly one must be "
                f"{name!r}: the first line names each column by its language"
            )
        places.append(names.index(name))
    for number, line in enumerate(lines, 2):
        fields = line.split("\t")
        if len(fields) != len(names):
            raise TextError(
                f"{path}, line {number}: {len(fields)} fields, but line 1 names {len(names)}: "
                "remove tabs inside a field, or give the missing ones"
            )
        yield fields[places[0]], fields[places[1]]
