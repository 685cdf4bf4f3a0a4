"""Files as torch.save writes them, made without torch; tests/parity reads those of torch itself."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
    "float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage",
    "int64": "LongStorage",
}  # fmt: skip


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def instructions(tree: Any, storages: list[np.ndarray], is_zip: bool) -> bytes:
    """The pickle of a tree, whose arrays join `storages`."""
    if isinstance(tree, dict):
        parts = [instructions(part, storages, is_zip) for item in tree.items() for part in item]
        return b"}(" + b"".join(parts) + b"u"
    if isinstance(tree, (list, tuple)):
        inner = b"".join(instructions(part, storages, is_zip) for part in tree)
        return b"](" + inner + b"e" if isinstance(tree, list) else b"(" + inner + b"t"
    if isinstance(tree, np.ndarray):
        storages.append(np.ascontiguousarray(tree))
        strides = [step // tree.itemsize for step in storages[-1].strides]
        kind = f"ctorch\n{STORAGES[tree.dtype.name]}\n".encode()
        reference = b"(" + text("storage") + kind + text(str(len(storages) - 1)) + text("cpu")
        reference += number(tree.size) + (b"" if is_zip else b"N") + b"tQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(0) + numbers(tree.shape)
            + numbers(strides) + b"\x89" + hooks + b"tR"
        )  # fmt: skip
    # Numbers, texts and None as Python writes them, without its frame and its end.
    return pickle.dumps(tree, 2)[2:-1]


def write_torch(tree: Any, path: Path, is_zip: bool = True) -> None:
    """Write a tree of dictionaries, lists, arrays and plain values."""
    storages: list[np.ndarray] = []
    program = b"\x80\x02" + instructions(tree, storages, is_zip) + b"."
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/byteorder", b"little")
            for key, storage in enumerate(storages):
                archive.writestr(f"archive/data/{key}", storage.tobytes())
        return
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    with path.open("wb") as file:
        for each in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(each, file, 2)
        file.write(program)
        pickle.dump([str(key) for key in range(len(storages))], file, 2)
        for storage in storages:
            file.write(struct.pack("<q", storage.size) + storage.tobytes())
