"""Text packed in four ways, known by its content and written by its name."""

import bz2
import gzip
import io
import lzma

import numpy as np
import pytest
from backports import zstd

from transformer_jax.data.compression import CompressionError, open_compressed
from transformer_jax.data.text import TextError, decode_lines, read_lines

PACKINGS = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstd.compress}


@pytest.mark.parametrize("ending", PACKINGS)
def test_packing_is_recognized_by_content(tmp_path, ending):
    pack = PACKINGS[ending]
    file = tmp_path / "text"  # without the ending
    packed = pack(np.random.default_rng(0).bytes(900).hex().encode() + b"\n" + "ä\n".encode() * 900)
    file.write_bytes(packed)
    assert list(read_lines(file))[1:] == ["ä"] * 900
    file.write_bytes(packed + pack(b"b\n"))  # two packed files one after the other
    assert list(read_lines(file))[-1] == "b"
    start = 4 if ending == "zst" else 10  # its data carry no checksum, its head is checked
    for damaged in (packed[:-9], packed[:start] + b"\xff" * 9 + packed[start + 9 :]):
        file.write_bytes(damaged)
        with pytest.raises(
            CompressionError, match=r"text cannot be unpacked \(.*\): copy it again"
        ):
            list(read_lines(file))
    file.write_bytes(pack(b"\xff\n"))
    with pytest.raises(TextError, match=r"text, line 1: byte 0 is not UTF-8"):
        list(read_lines(file))
    with open_compressed(tmp_path / f"out.{ending}") as out:
        out.write("ä\n".encode())
    assert (tmp_path / f"out.{ending}").read_bytes()[:2] == pack(b"x")[:2]
    assert list(read_lines(tmp_path / f"out.{ending}")) == ["ä"]


def test_packing_leaves_a_given_file_open():
    for content in (b"one\n", gzip.compress(b"one\n")):
        file = io.BytesIO(content)
        assert list(decode_lines(file, "given")) == ["one"]
        file.seek(0)
        assert list(decode_lines(file, "given")) == ["one"]


def test_packing_ignores_misleading_suffixes(tmp_path):
    for name, content in (("a.gz", b"plain\n"), ("a", b"BZh9 is a head of bzip2\n"), ("b", b"")):
        (tmp_path / name).write_bytes(content)
        assert list(read_lines(tmp_path / name)) == content.decode().splitlines()
