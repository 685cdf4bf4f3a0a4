"""Text packed by gzip, xz, bzip2 or Zstandard: known by its first bytes, written by its name."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from transformer_jax.errors import UserError

__all__ = ["ENDINGS", "CompressionError", "decompressed", "open_compressed"]


class CompressionError(UserError):
    """A packed file that cannot be unpacked; the message names it and the remedy."""


def _open_zstd(file: Any, mode: str) -> Any:
    try:
        try:
            from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
        except ImportError:
            from backports import zstd
    except ImportError:
        raise CompressionError(
            "text packed by Zstandard needs backports.zstd, which is not installed here: install "
            "it, or unpack the text"
        ) from None
    return zstd.open(file, mode)


# Ending -> how a file so packed begins, and what opens one. The letters of bzip2 may begin a text,
# which goes on in another way; a pipe may have given no more than they are.
_KINDS: dict[str, tuple[re.Pattern[bytes], Callable[[Any, str], Any]]] = {
    ".gz": (re.compile(rb"\x1f\x8b"), gzip.open),
    ".xz": (re.compile(rb"\xfd7zXZ\x00"), lzma.open),
    ".bz2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90|$)", re.DOTALL), bz2.open),
    ".zst": (re.compile(rb"\x28\xb5\x2f\xfd"), _open_zstd),
}
# Of packed files; the first is of those that are not.
ENDINGS = ("", *_KINDS)


@contextlib.contextmanager
def decompressed(file: BinaryIO, name: str | os.PathLike) -> Iterator[BinaryIO]:
    """What reads the bytes of an open file, unpacked where it is packed; `name` is for errors.

    >>> with decompressed(io.BytesIO(gzip.compress(b"A man.")), "text") as file:
    ...     file.read()
    b'A man.'
    """
    seen: Any = file if hasattr(file, "peek") else io.BufferedReader(cast(io.RawIOBase, file))
    try:
        head = seen.peek(16)
        opened = next((opened for start, opened in _KINDS.values() if start.match(head)), None)
        if opened is None:
            # At a terminal the end is not asked for twice.
            yield seen if head else io.BytesIO()
        else:
            with _explained(name), opened(seen, "rb") as inside:
                yield inside
    finally:
        if seen is not file:
            seen.detach()  # or the caller's file would be closed with it


@contextlib.contextmanager
def _explained(name: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each kind has its own
        raise CompressionError(f"{name} cannot be unpacked ({error}): copy it again") from None


def open_compressed(path: str | os.PathLike) -> BinaryIO:
    """A file open for writing bytes, packed as its ending says: .gz, .xz, .bz2, .zst, or not."""
    _, opened = _KINDS.get(os.path.splitext(path)[1], (None, open))
    return cast(BinaryIO, opened(path, "wb"))
