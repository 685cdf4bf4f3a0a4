"""Files of torch.save: tensors are read, and nothing that a file asks for is imported or run."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tests.weights.torch_writer import instructions, number, numbers, text, write_torch
from transformer_jax.errors import UserError
from transformer_jax.weights.pickles import PickleError, read_pickle
from transformer_jax.weights.torch_files import TorchFile

TREE = {
    "model": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1.5, 2.5])},
    "args": {"name": "x", "sizes": [1, 2.5, None, True], "pair": (1, "y")},
}


def read(program):
    return read_pickle(io.BytesIO(program), "file.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_tree_and_tensors_come_back(tmp_path, is_zip):
    write_torch(TREE, tmp_path / "x.pt", is_zip)
    file = TorchFile(tmp_path / "x.pt")
    assert file.tree["args"] == TREE["args"]
    found = file.arrays(file.tree["model"])
    for name, array in TREE["model"].items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


class Attack:
    def __reduce__(self):
        return os.system, ("touch hacked",)


class Nested:
    def __reduce__(self):
        return dict, ([("a", Attack())],)


@pytest.mark.parametrize(
    "attack", [Attack(), Nested(), {"model": [Attack()]}, print, os.path.join, Attack]
)
@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_nothing_that_a_pickle_names_is_run(tmp_path, monkeypatch, attack, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleError, match=r"nothing of it was run|instruction"):
        read(pickle.dumps(attack, protocol))
    assert not list(tmp_path.iterdir())


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(4)
DAMAGED = {
    "an instance of a class": (b"(ios\nsystem\n.", "instruction INST"),
    "an object by number": (b"\x82\x01.", "instruction EXT1"),
    "a storage that is applied": (b"ctorch\nFloatStorage\n)R.", "applies what is no name"),
    "a text that is applied": (text("x") + b")R.", "applies what is no name"),
    "a state of a list": (b"](K\x01K\x02u.", "items of what is no dictionary"),
    "a state of a name": (b"ccollections\nOrderedDict\n}b.", "sets the state of what has none"),
    "a key that is a tuple": (b"}()K\x01u.", "a key is of type tuple"),
    "an empty stack": (b".", "damaged"),
    "too little on the stack": (b"K\x01\x87.", "its stack is empty"),
    "two results": (b"K\x01K\x02.", "damaged"),
    "no mark": (b"K\x01t.", "it has no mark"),
    "no end": (b"K\x01", "damaged"),
    "no such memory": (b"h\x07.", "damaged"),
    "a text longer than the file": (b"X\xff\xff\xff\x7fabc", "damaged"),
    "a huge number": (b"\x8b\xff\xff\xff\x7f1.", "damaged"),
    "a storage of another kind": (b"(" + text("file") + b"NNNNtQ.", "refers to what is no storage"),
    "a view of a storage": (
        STORAGE + b"(" + text("0") + number(1) + number(2) + b"ttQ.",
        "a storage is a view",
    ),
    "a text of terabytes": (b"\x8d" + struct.pack("<Q", 2**45) + b"a.", "damaged"),
    "negative strides": (
        TENSOR + b"(" + STORAGE + b"tQ" + number(0) + numbers([2]) + numbers([-1]) + b"\x89}tR.",
        "no whole numbers",
    ),
    "axes without strides": (
        TENSOR + b"(" + STORAGE + b"tQ" + number(0) + numbers([2]) + numbers([]) + b"\x89}tR.",
        "other strides than axes",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_are_refused(name):
    program, message = DAMAGED[name]
    with pytest.raises(PickleError, match=message):
        read(program)


def test_memory_is_not_taken_for_what_a_pickle_says():
    """A memo with a place of number two thousand million would be 16 GB in Python's own reader."""
    assert read(b"K\x07r\xff\xff\xff\x7f.") == 7


def test_lists_that_hold_one_another_are_not_made_larger():
    """Ten times ten times ... of a list are 60 lists."""
    program = b"]q\x00"
    for place in range(1, 60):
        program += b"](" + (b"h" + bytes([place - 1])) * 10 + b"eq" + bytes([place])
    found = read(b"(" + program + b"t.")
    assert len(found) == 60 and all(each is found[-2] for each in found[-1])


def test_deep_keys_are_refused_before_they_are_hashed():
    with pytest.raises(PickleError, match="key is of type tuple"):
        read(b"}()" + b"\x85" * 200_000 + b"K\x01u.")


def tensor(offset, shape, strides):
    return (
        TENSOR + b"(" + STORAGE + b"tQ" + number(offset) + numbers(shape) + numbers(strides)
        + b"\x89}tR"
    )  # fmt: skip


def archive(path, program, members):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02" + program + b".")
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, [4], [1]),
        (0, [2, 2], [4, 1]),
        (0, [5], [0]),
        (0, [2**31 - 1], [0]),
        (5, [1], [1]),
        (0, [1] * 9, [1] * 9),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, offset, shape, strides):
    """One with strides of 0 would be as large as it says, too."""
    path = archive(tmp_path / "x.pt", tensor(offset, shape, strides), {"x/data/0": bytes(16)})
    file = TorchFile(path)
    with pytest.raises(UserError, match="reaches beyond its storage of 4 numbers"):
        file.array(file.tree)


def test_views_are_read_by_their_strides(tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    path = archive(tmp_path / "x.pt", tensor(0, [2, 2], [1, 2]), {"x/data/0": data})
    file = TorchFile(path)
    np.testing.assert_array_equal(file.array(file.tree), [[0, 2], [1, 3]])
    path = archive(tmp_path / "y.pt", tensor(3, [1, 0], [1, 1]), {"x/data/0": data})
    assert not TorchFile(path).array(TorchFile(path).tree).size


def test_views_of_one_storage_are_no_many_copies(tmp_path):
    """By a thousand names, or shifted by one each."""
    names = [text(str(n)) for n in range(99)]
    same = b"}(" + names[0] + tensor(0, [4], [1]) + b"q\x05"
    same += b"".join(name + b"h\x05" for name in names[1:]) + b"u"
    path = archive(tmp_path / "x.pt", same, {"x/data/0": bytes(16)})
    found = TorchFile(path).arrays(TorchFile(path).tree)
    assert len(found) == 99 and len({id(array) for array in found.values()}) == 1
    large = tensor(0, [1, 4], [1, 1]).replace(number(4) + b"tQ", number(4000) + b"tQ")
    parts = [names[n] + large.replace(numbers([1, 4]), numbers([1, 4000 - n])) for n in range(9)]
    path = archive(tmp_path / "y.pt", b"}(" + b"".join(parts) + b"u", {"x/data/0": bytes(16000)})
    with pytest.raises(UserError, match="its tensors are larger than the file"):
        TorchFile(path).arrays(TorchFile(path).tree)


ARCHIVES = {
    "a path out of the archive": ({"x/../../data/0": b""}, "it names 'x/../../data/0'"),
    "no storage": ({}, "has no storage '0'"),
    "a storage of another size": ({"x/data/0": bytes(12)}, "storage '0' has 12 bytes, not 16"),
    "two pickles": ({"y/data.pkl": b"."}, "has no data.pkl"),
    "another byte order": ({"x/byteorder": b"big"}, "byte order is b'big'"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_archives_are_refused(tmp_path, name):
    members, message = ARCHIVES[name]
    path = archive(tmp_path / "x.pt", tensor(0, [4], [1]), members)
    with pytest.raises(UserError, match=message):
        file = TorchFile(path)
        file.array(file.tree)


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"N.")
        file.writestr("x/data/0", bytes(10**6))
    with pytest.raises(UserError, match="is compressed or encrypted"):
        TorchFile(path)


def test_header_that_says_more_than_the_file_holds_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    write_torch({"a": np.zeros(4, np.float32)}, path, is_zip=False)
    data = bytearray(path.read_bytes())
    data[-24:-16] = struct.pack("<q", 2**40)
    path.write_bytes(data)
    with pytest.raises(UserError, match="storage '0' has another size"):
        TorchFile(path)
    write_torch({"a": np.zeros(4, np.float32)}, path, is_zip=False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="reaches beyond its end"):
        TorchFile(path)


def test_what_is_no_file_of_torch_is_said(tmp_path):
    path = tmp_path / "x.pt"
    for content, message in (
        (b"", "is no file of torch.save"),
        (b"hello", "is no file of torch.save"),
        (pickle.dumps(5, 2) * 2, "another magic number"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            TorchFile(path)
    path.write_bytes(b"\x80\x02" + instructions({"a": 1}, [], True) + b".")
    with pytest.raises(UserError, match=r"damaged|magic"):
        TorchFile(path)
