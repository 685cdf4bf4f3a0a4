r"""Plain text files: UTF-8, one sentence a line, lines end at "\n" and nowhere else."""

import hashlib
import itertools
import os
import stat
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

from transformer_jax.data.compression import decompressed
from transformer_jax.errors import UserError

__all__ = [
    "ParallelText",
    "TextError",
    "TextFiles",
    "chunks",
    "decode_lines",
    "digest",
    "empty_blanks",
    "is_blank",
    "list_lines",
    "read_lines",
    "read_pairs",
    "read_tsv",
]

T = TypeVar("T")


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
    """SHA-256 of a file's bytes; TextError for what can be read only once, as a pipe."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise TextError(
                f"{path} is a pipe or a device, and this text is read several times: write it to "
                "a file first"
            )
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TextError(f"{path}: {error.strerror}") from None


class TextError(UserError):
    """Text that cannot be used; the message names the file, the line and the remedy."""


def is_blank(line: str) -> bool:
    r"""Whether a line shows nothing: it has only spaces of any kind, controls and format signs.

    >>> is_blank(" \t\u3000\u200b\ufeff\r"), is_blank(" .")
    (True, False)
    """
    return all(
        character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in line
    )


def empty_blanks(lines: Iterable[str]) -> list[str]:
    """Make every blank line an empty one.

    >>> empty_blanks(["a", "\u3000"])
    ['a', '']
    """
    return ["" if is_blank(line) else line for line in lines]


def list_lines(name: str, lines: Iterable[str]) -> list[str]:
    """List any iterable of lines.

    Args:
        name: What errors call it.
        lines: Lines of text.

    Raises:
        TypeError: It is one string, or holds something else than strings.
    """
    if isinstance(lines, str | bytes):
        raise TypeError(f"{name} is one string: give a list of lines")
    found = list(lines)
    for number, line in enumerate(found, 1):
        if not isinstance(line, str):
            raise TypeError(f"{name} must be str, but number {number} is {type(line).__name__}")
    return found


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    r"""Lines of a UTF-8 file without their "\n" (and "\r\n" counts as one end of line).

    Unicode line separators and form feeds stay inside a line: `str.splitlines` would shift
    every later pair of newstest2009 by eight lines. A packed file is unpacked; a byte order mark
    is no text.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise TextError(f"{path}: {error.strerror}") from None
    with file:
        yield from decode_lines(file, path)


def decode_lines(file: BinaryIO, name: str | os.PathLike) -> Iterator[str]:
    """Lines of an open binary file, as `read_lines` gives them; `name` is for its errors."""
    try:
        with decompressed(file, name) as text:
            for number, raw in enumerate(text, 1):
                start = len(BOM_UTF8) if number == 1 and raw.startswith(BOM_UTF8) else 0
                if start == len(raw):
                    return
                try:
                    line = raw[start:].decode("utf-8")
                except UnicodeDecodeError as error:
                    raise TextError(
                        f"{name}, line {number}: byte {start + error.start} is not UTF-8; "
                        "convert the text, for example with iconv -t utf-8"
                    ) from None
                yield line.removesuffix("\n").removesuffix("\r")
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


def read_tsv(path: str | os.PathLike, source: str, target: str) -> Iterator[tuple[str, str]]:
    """Read line pairs from two columns of a tab-separated file with a header.

    Args:
        path: The file.
        source: Name of the source's column.
        target: Name of the target's column.
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


def chunks(lines: Iterator[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` lines; an error of the reader is raised after the lines before it."""
    chunk: list[T] = []
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
