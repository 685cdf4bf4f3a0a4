"""model.bin of CTranslate2.

It is, in little endian: its version, "TransformerSpec", a revision, the number of variables
and each of them as name, rank, sizes, dtype, bytes and values; then the number of aliases, and each
as its own name and that of a variable. A text is its length in 16 bits, NUL included, and UTF-8.
"""

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.weights.byte_reader import ByteReader

__all__ = ["read_variables", "write_variables"]

_VERSION, _REVISION, _SPEC = 6, 7, "TransformerSpec"
_DTYPES = [np.dtype(each) for each in (
    np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16
)]  # fmt: skip


def _text(file: ByteReader) -> str:
    """The next text."""
    data = file.take(file.number("H"))
    try:
        return data.removesuffix(b"\0").decode()
    except UnicodeDecodeError:
        raise UserError(f"{file.path} is damaged: a name is not valid UTF-8") from None


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """Read the variables, and aliases as further names of them.

    Args:
        path: The file.

    Raises:
        UserError: It is missing, damaged, or of another version or model.
    """
    file = ByteReader(path)
    if (version := file.number("I")) != _VERSION:
        raise UserError(
            f"{path} has binary version {version}, and only {_VERSION} is read: convert the model "
            "with a CTranslate2 of version 3 or 4"
        )
    spec, revision = _text(file), file.number("I")
    if spec != _SPEC or revision > _REVISION:
        raise UserError(
            f"{path} is a {spec!r:.80} of revision {revision}, and only {_SPEC} to {_REVISION} is "
            "read"
        )
    found: dict[str, np.ndarray] = {}
    for _ in range(file.number("I")):
        name = _text(file)
        shape = [file.number("I") for _ in range(file.number("B"))]
        kind, size = file.number("B"), file.number("I")
        if kind >= len(_DTYPES):
            raise UserError(f"{path} is damaged: {name!r:.80} is of dtype {kind}")
        found[name] = file.array(name, _DTYPES[kind], shape, size)
    for _ in range(file.number("I")):
        alias, name = _text(file), _text(file)
        if name not in found:
            raise UserError(f"{path} is damaged: {alias!r:.80} is {name!r:.80}, which it has not")
        found[alias] = found[name]
        if f"{name}_scale" in found:
            found[f"{alias}_scale"] = found[f"{name}_scale"]
    return found


def write_variables(variables: Mapping[str, np.ndarray], path: Path) -> None:
    """Write variables; arrays that are one another's equal are written once.

    Args:
        variables: By name.
        path: The file.

    Raises:
        UserError: One of them is larger than the format allows.
    """

    def text(value: str) -> bytes:
        data = value.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    first: dict[Any, str] = {}
    aliases = {}
    for name, array in sorted(variables.items()):
        if not array.ndim or name.endswith("_scale"):
            continue
        digest = hashlib.sha256(array.tobytes()).digest()
        if name != (other := first.setdefault((array.dtype.name, array.shape, digest), name)):
            aliases[name] = other
    with path.open("wb") as file:
        # The scale of what is another's equal is that one's, too.
        left_out = {*aliases, *(f"{name}_scale" for name in aliases)}
        kept = [item for item in sorted(variables.items()) if item[0] not in left_out]
        file.write(struct.pack("<I", _VERSION) + text(_SPEC))
        file.write(struct.pack("<II", _REVISION, len(kept)))
        for name, array in kept:
            if array.nbytes >= 2**32:
                raise UserError(
                    f"{name} has {array.nbytes} bytes, and CTranslate2 has 32 bits for it"
                )
            file.write(text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape))
            file.write(struct.pack("<BI", _DTYPES.index(array.dtype), array.nbytes))
            file.write(np.ascontiguousarray(array).tobytes())
        file.write(struct.pack("<I", len(aliases)))
        for alias, name in sorted(aliases.items()):
            file.write(text(alias) + text(name))
