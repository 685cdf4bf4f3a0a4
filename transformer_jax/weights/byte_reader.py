"""A binary file, read from its beginning to its end without trusting its sizes."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer_jax.errors import UserError

__all__ = ["ByteReader"]

# More axes than any array of a model has.
_MOST_AXES = 8


class ByteReader:
    """The bytes of a file, taken one after the other; all numbers are little endian.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path):
        """Read a file.

        Args:
            path: The file.

        Raises:
            UserError: It cannot be read.
        """
        self.path, self._place = path, 0
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None

    def check(self, count: int) -> None:
        """Raise UserError where the file has not so many bytes left."""
        if count > len(self._data) - self._place:
            raise UserError(f"{self.path} is damaged: it ends too early")

    def take(self, count: int) -> bytes:
        """Take the next bytes; UserError where there are not so many."""
        self.check(count)
        start, self._place = self._place, self._place + count
        return self._data[start : self._place]

    def number(self, kind: str) -> int:
        """Take the next number, of a kind of `struct`."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def array(self, name: str, dtype: np.dtype, shape: Sequence[int], size: int) -> np.ndarray:
        """Take an array, and what pads it.

        Args:
            name: Its name, for messages.
            dtype: Its dtype.
            shape: Its shape.
            size: Its bytes, with those that pad it.

        Raises:
            UserError: It has not so many bytes.
        """
        data, used = self.take(size), math.prod(shape) * dtype.itemsize
        if len(shape) > _MOST_AXES or min(shape, default=1) < 0 or used > size:
            raise UserError(
                f"{self.path} is damaged: {name!r:.80} of shape {list(shape)!r:.80} and dtype "
                f"{dtype} has {size} bytes"
            )
        # A shape with a zero may be too large for NumPy in its other sizes.
        return np.frombuffer(data[:used], dtype).reshape(shape if used else [0])
