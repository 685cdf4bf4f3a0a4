"""Files of Marian: arrays as .npz or .bin, and lists of tokens as .yml."""

import json
import math
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from transformer_jax.errors import UserError
from transformer_jax.weights.byte_reader import ByteReader
from transformer_jax.weights.foreign import plain_options
from transformer_jax.weights.numbering import find_pieces, read_pieces

__all__ = ["read_bin", "read_npz", "read_options", "read_tokens", "vocabulary_files"]

# Types of arrays in .bin files.
_TYPES = {0x404: "float32", 0x402: "float16", 0x101: "int8", 0x104: "int32"}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, whose headers are compared with it before memory is taken.

    Args:
        path: The file.

    Raises:
        UserError: It is missing or damaged.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                    raise UserError(
                        f"{path}: {member.filename!r:.80} is compressed, as Marian leaves none"
                    )
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    arrays[name] = _read_npy(file, member.file_size, f"{path}: {name!r:.80}")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UserError:
        raise
    except Exception as error:  # zipfile, NumPy's header and Python's tokenizer have many
        raise UserError(f"{path} is damaged: {error}") from None
    return arrays


def read_options(data: bytes, name: str) -> dict[str, Any]:
    """Read options from YAML.

    Args:
        data: The text, in UTF-8.
        name: What messages call it.

    Raises:
        UserError: It is no YAML, or holds no options.
    """
    try:
        found = yaml.safe_load(data.decode())
    except Exception as error:  # constructors of its types raise what they like
        line = (str(error).splitlines() or [""])[0]
        raise UserError(f"{name} is damaged: it is no YAML ({line:.80})") from None
    if not isinstance(found, dict):
        raise UserError(f"{name} is damaged: it holds no options")
    return plain_options(found)


def _read_npy(file: Any, size: int, name: str) -> np.ndarray:
    if np.lib.format.read_magic(file) != (1, 0):
        raise UserError(f"{name} is of another version of NumPy's format than 1.0")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    count = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or any(length < 0 for length in shape) or file.tell() + count != size:
        raise UserError(f"{name} is damaged: {shape} of {dtype} are not its {size} bytes")
    array = np.frombuffer(file.read(count), dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def read_bin(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .bin file.

    It is a version, the number of arrays, and for each the sizes of its name, type, shape and bytes
    in 64 bits; then all names, all shapes in 32 bits, and all bytes behind a gap (marian-dev,
    src/common/binary.cpp).

    Args:
        path: The file.

    Raises:
        UserError: It is missing or damaged, or of types that are not read.
    """
    file = ByteReader(path)
    if (version := file.number("Q")) != 1:
        raise UserError(
            f"{path} has version {version}, and only 1 is read: "
            + ("it is encrypted" if version == 2 else "it is no model of Marian")
        )
    count = file.number("Q")
    file.check(count * 32)
    heads = [struct.unpack("<4Q", file.take(32)) for _ in range(count)]
    names = [file.take(head[0]).rstrip(b"\0").decode("utf-8", "replace") for head in heads]
    shapes = []
    for head in heads:
        file.check(head[2] * 4)
        shapes.append(struct.unpack(f"<{head[2]}i", file.take(4 * head[2])))
    file.take(file.number("Q"))
    arrays = {}
    for (_, kind, _, size), name, shape in zip(heads, names, shapes):
        if kind not in _TYPES:
            raise UserError(
                f"{path}: {name!r:.80} is of type {kind:#x}, which is packed or quantised: export "
                "the model in float32"
            )
        arrays[name] = file.array(name, np.dtype(_TYPES[kind]), shape, size)
    return arrays


def vocabulary_files(path: Path) -> list[Path]:
    """Find the vocabularies that stand beside a model: one for both sides, or one for each.

    They are lists of tokens as .yml, else SentencePiece models, whose pieces have their own ids.

    Args:
        path: The model.

    Raises:
        UserError: There is none, or it cannot be told which is meant.
    """
    folder = path.parent
    decoder = folder / "decoder.yml"
    if decoder.is_file():
        named = read_options(decoder.read_bytes(), str(decoder)).get("vocabs")
        if type(named) is not list or not all(type(name) is str for name in named):
            raise UserError(f"{decoder} is damaged: it has no list of vocabs")
        found = [folder / Path(name).name for name in named]
    else:
        found = sorted(folder.glob("*vocab*.yml"))
        if not found:
            found = [path for path in find_pieces(folder) if path is not None]
        elif len(found) > 1:
            raise UserError(
                f"{folder} has {len(found)} files *vocab*.yml: leave one for both sides, or name "
                "source and target in decoder.yml as vocabs"
            )
    if not 1 <= len(found) <= 2:
        raise UserError(
            f"{folder} has {len(found)} vocabularies of the model: put *vocab*.yml or an .spm file "
            "for both sides there, or name source and target in decoder.yml as vocabs"
        )
    for file in found:
        if file.suffix not in (".yml", ".yaml", ".spm"):
            what = "a factored vocabulary" if file.suffix == ".fsv" else "neither .yml nor .spm"
            raise UserError(f"{file} is {what}, which is not read: give one of .yml or .spm")
    return list(dict.fromkeys(found))


def read_tokens(path: Path) -> list[str]:
    """Read lines of the form "token": id, which YAML's own readers lose some of; or the pieces of a
    SentencePiece model.

    Args:
        path: The file.

    Raises:
        UserError: It is missing or damaged; ids must be those from 0 on.
    """
    if path.suffix == ".spm":
        return read_pieces(path)
    try:
        # Not splitlines: a token may be U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    numbers: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"(.*):\s*(\d+)\s*", line)
        if not line.strip():
            continue
        if not match or len(match[2]) > 9 or int(match[2]) in numbers:
            raise UserError(
                f"{path}, line {number}: {line!r:.80} is not a token and an id of its own"
            )
        numbers[int(match[2])] = _unquoted(match[1], f"{path}, line {number}")
    if not numbers or max(numbers) != len(numbers) - 1:
        raise UserError(f"{path} is damaged: its ids are not those from 0 to {len(numbers) - 1}")
    return [numbers[row] for row in range(len(numbers))]


def _unquoted(text: str, name: str) -> str:
    """A YAML scalar's text; those in double quotes are written as JSON writes them, or nearly."""
    if text.startswith("'") and text.endswith("'") and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if not text.startswith('"'):
        return text
    for parse in (json.loads, yaml.safe_load):
        try:
            found = parse(text)
        except Exception:  # as in `read_options`
            continue
        if isinstance(found, str):
            return found
    raise UserError(f"{name}: {text!r:.80} is no text")
