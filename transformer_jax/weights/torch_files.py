"""Files that torch.save writes, read without torch: zip archives, and those of before 1.6."""

import math
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.weights.pickles import Storage, Tensor, read_pickle

__all__ = ["TorchFile"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# More than any array of a model has.
_MOST_AXES = 8


class TorchFile:
    """An opened file; its tensors are read as they are asked for.

    >>> TorchFile(Path("no.pt"))
    Traceback (most recent call last):
    transformer_jax.errors.UserError: no.pt: No such file or directory

    Attributes:
        path: The file.
        tree: What was saved, with `Tensor`s for tensors.
    """

    def __init__(self, path: Path):
        """Open a file.

        Args:
            path: The file.

        Raises:
            UserError: It is missing, damaged, or holds anything but plain data and tensors.
        """
        self.path = path
        self._members: dict[str, tuple[int, int]] = {}  # key -> place of the numbers, their bytes
        try:
            with path.open("rb") as file:
                read = self._read_archive if zipfile.is_zipfile(file) else self._read_legacy
                if not path.stat().st_size:
                    raise UserError(f"{path} is no file of torch.save: it is empty")
                # Of mapped memory no more is taken than the file has, whatever it says.
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    self.tree = read(mapped)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None

    def array(self, tensor: Tensor) -> np.ndarray:
        """Read a tensor.

        Args:
            tensor: One of the tree.

        Raises:
            UserError: It reaches beyond its storage, or that beyond the file.
        """
        storage, dtype = tensor.storage, _dtype(tensor.storage)
        # The stride of an axis of one entry is of no use, and may be any.
        strides = [step if n > 1 else 0 for n, step in zip(tensor.shape, tensor.strides)]
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, strides))
        size = math.prod(tensor.shape)
        if len(tensor.shape) > _MOST_AXES or (
            size and (last >= storage.size or size > storage.size)
        ):
            raise UserError(
                f"{self.path} is damaged: a tensor of shape {tensor.shape} reaches beyond its "
                f"storage of {storage.size} numbers"
            )
        if storage.key not in self._members:
            raise UserError(f"{self.path} is damaged: it has no storage {storage.key!r:.80}")
        start, count = self._members[storage.key]
        if count != storage.size * dtype.itemsize:
            raise UserError(
                f"{self.path} is damaged: storage {storage.key!r:.80} has {count} bytes, not "
                f"{storage.size * dtype.itemsize}"
            )
        with self.path.open("rb") as file:
            file.seek(start)
            numbers = np.frombuffer(file.read(count), dtype)
        if not size:  # its other sizes may be too large for NumPy
            return np.empty(0, dtype)
        steps = [step * dtype.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps).copy()

    def arrays(self, tree: Any) -> dict[str, np.ndarray]:
        """Read a dictionary of tensors, as a `state_dict` is one.

        Args:
            tree: A part of `tree`.

        Raises:
            UserError: It is none, or a tensor is damaged.
        """
        if type(tree) is not dict or not all(type(each) is Tensor for each in tree.values()):
            raise UserError(f"{self.path} holds no dictionary of tensors where a model has its own")
        # One tensor by several names is read once; views of a storage are not many copies of it.
        distinct = dict.fromkeys(tree.values())
        wanted = sum(math.prod(each.shape) * _dtype(each.storage).itemsize for each in distinct)
        if wanted > 2 * self.path.stat().st_size:
            raise UserError(f"{self.path} is damaged: its tensors are larger than the file")
        made = {tensor: self.array(tensor) for tensor in distinct}
        return {str(name): made[tensor] for name, tensor in tree.items()}

    def _read_archive(self, file: mmap.mmap) -> Any:
        try:
            archive = zipfile.ZipFile(file)  # type: ignore[call-overload]
            members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise UserError(f"{self.path} is damaged: {error}") from None
        roots = [each.filename[: -len("data.pkl")] for each in members
                 if each.filename.endswith("/data.pkl")]  # fmt: skip
        if len(roots) != 1:
            raise UserError(f"{self.path} is no file of torch.save: it has no data.pkl")
        for each in members:
            if ".." in each.filename.split("/") or each.filename.startswith("/"):
                raise UserError(f"{self.path} is damaged: it names {each.filename!r:.80}")
            if each.compress_type != zipfile.ZIP_STORED or each.flag_bits & 1:
                raise UserError(
                    f"{self.path}: {each.filename!r:.80} is compressed or encrypted, as torch.save "
                    "leaves none: it is not read"
                )
        end = len(file)
        for each in members:
            start = self._start_of(file, each, end)
            if each.filename.startswith(f"{roots[0]}data/"):
                self._members[each.filename[len(roots[0]) + 5 :]] = start, each.file_size
            elif each.filename == f"{roots[0]}byteorder":
                file.seek(start)
                if (order := file.read(min(each.file_size, 8))) != b"little":
                    raise UserError(f"{self.path}: its byte order is {order!r}, not little")
            elif each.filename == f"{roots[0]}data.pkl":
                pickled = start
        file.seek(pickled)
        return read_pickle(file, str(self.path))

    def _start_of(self, file: mmap.mmap, member: zipfile.ZipInfo, end: int) -> int:
        """The place of a stored member's bytes, behind its own header."""
        header = b""
        if 0 <= member.header_offset <= end:
            file.seek(member.header_offset)
            header = file.read(30)
        if len(header) == 30 and header[:4] == b"PK\3\4":
            start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
            if start + member.file_size <= end:
                return start
        raise UserError(f"{self.path} is damaged: {member.filename!r:.80} reaches beyond its end")

    def _read_legacy(self, file: mmap.mmap) -> Any:
        """Magic number, protocol, system, the object and keys are a pickle each; then each storage
        has its count in 8 bytes, and its numbers."""
        name = str(self.path)
        if file.read(1) != b"\x80":
            raise UserError(f"{name} is no file of torch.save")
        file.seek(0)
        if (read_pickle(file, name), read_pickle(file, name)) != (_MAGIC, _PROTOCOL):
            raise UserError(f"{name} is no file of torch.save: it has another magic number")
        system = read_pickle(file, name)
        if type(system) is not dict or system.get("little_endian") is not True:
            raise UserError(f"{name}: its byte order is not little")
        tree, keys = read_pickle(file, name), read_pickle(file, name)
        storages = {each.storage.key: each.storage for each in _tensors(tree)}
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise UserError(f"{name} is damaged: it has no list of storages")
        place, end = file.tell(), len(file)
        for key in keys:
            if key not in storages:
                raise UserError(f"{name} is damaged: no tensor has the storage {key!r:.80}")
            size = storages[key].size * _dtype(storages[key]).itemsize
            file.seek(place)
            counted = file.read(8)
            if len(counted) < 8 or struct.unpack("<q", counted)[0] != storages[key].size:
                raise UserError(f"{name} is damaged: storage {key!r:.80} has another size")
            if place + 8 + size > end:
                raise UserError(f"{name} is damaged: storage {key!r:.80} reaches beyond its end")
            self._members[key] = place + 8, size
            place += 8 + size
        return tree


def _dtype(storage: Storage) -> np.dtype:
    name = storage.dtype
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _tensors(tree: Any) -> list[Tensor]:
    """List the tensors of a tree, each container once."""
    found, seen, left = [], set(), [tree]
    while left:
        each = left.pop()
        if type(each) is Tensor:
            found.append(each)
        elif type(each) in (dict, list, tuple) and id(each) not in seen:
            seen.add(id(each))
            left.extend(each.values() if type(each) is dict else each)
    return found
