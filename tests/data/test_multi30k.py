"""Multi30k from a folder and from a server: small files of its names, and the real ones."""

import gzip
import hashlib
import http.server
import shutil
import threading

import pytest

from transformer_jax.data.builders import Multi30k
from transformer_jax.data.compression import CompressionError
from transformer_jax.data.datasets import DatasetError
from transformer_jax.data.text import TextError


@pytest.fixture
def captions(tmp_path, monkeypatch):
    """The files of Multi30k in small, and their own checksums on record."""
    folder = tmp_path / "multi30k"
    folder.mkdir()
    sums = {}
    for name in Multi30k.SHA256:
        split, language = name.split(".")
        count = 40 if split == "train" else 4
        text = "".join(f"{language} {split} {i}\n" for i in range(count)).encode()
        (folder / f"{name}.gz").write_bytes(gzip.compress(text))
        sums[name] = hashlib.sha256(text).hexdigest()
    monkeypatch.setattr(Multi30k, "SHA256", sums)
    return folder


def test_multi30k_from_a_folder(load, captions):
    splits = load("multi30k", "fr-de", captions)
    assert [len(split) for split in splits.values()] == [40, 4, 4]
    assert list(splits["test"])[3] == ("fr test_2016_flickr 3", "de test_2016_flickr 3")


def test_multi30k_with_a_wrong_or_missing_file(load, captions, prepared_files):
    (captions / "val.fr.gz").write_bytes(gzip.compress(b"something else\n"))
    with pytest.raises(TextError, match=r"val.fr.gz is not Multi30k's val.fr: its SHA-256"):
        load("multi30k", "en-de", captions)
    (captions / "val.fr.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(CompressionError, match=r"val.fr.gz cannot be unpacked"):
        load("multi30k", "en-de", captions)
    (captions / "val.fr.gz").unlink()
    with pytest.raises(TextError, match=r"lacks val.fr \(or val.fr.gz\)"):
        load("multi30k", "en-de", captions)
    assert not prepared_files()


@pytest.fixture
def server(captions):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(captions))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_multi30k_downloaded(load, captions, server, monkeypatch, tmp_path, prepared_files):
    monkeypatch.setattr(Multi30k, "URL", server)
    (captions / "val.fr.gz").write_bytes(gzip.compress(b"tampered with\n"))
    with pytest.raises(TextError, match=r"is not Multi30k's val.fr"):
        load("multi30k")
    assert not prepared_files()
    # A download that was not the file is not kept: the next time it is got again.
    lines = "".join(f"fr val {i}\n" for i in range(4))
    (captions / "val.fr.gz").write_bytes(gzip.compress(lines.encode()))
    assert len(load("multi30k")["validation"]) == 4
    shutil.rmtree(tmp_path / "cache")
    (captions / "train.en.gz").unlink()
    with pytest.raises(DatasetError, match=r"multi30k cannot be downloaded: .*404"):
        load("multi30k")


def test_multi30k_downloaded_whole(load, captions, server, monkeypatch):
    monkeypatch.setattr(Multi30k, "URL", server)
    assert next(iter(load("multi30k")["validation"])) == ("en val 0", "de val 0")


def test_multi30k_without_network(load, monkeypatch):
    monkeypatch.setattr(Multi30k, "URL", "http://127.0.0.1:9")
    with pytest.raises(TextError, match=r"127.0.0.1:9 cannot be reached .*give the files"):
        load("multi30k")


def test_multi30k_real_files(load, shared_data):
    splits = load("multi30k", "en-de", shared_data / "multi30k")
    assert [len(split) for split in splits.values()] == [29_000, 1014, 1000]
    for name, split in (("val", "validation"), ("test_2016_flickr", "test")):
        texts = [
            (shared_data / "multi30k" / f"{name}.{language}").read_text(encoding="utf-8")
            for language in ("en", "de")
        ]
        assert list(splits[split]) == list(zip(*(text[:-1].split("\n") for text in texts)))
