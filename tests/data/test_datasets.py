"""Datasets by name, prepared and read for real: small files, small archives, no mocks."""

import gzip
import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.translate import wmt

from transformer_jax.data import builders
from transformer_jax.data.builders import Grammar, Multi30k
from transformer_jax.data.datasets import DatasetError, load_dataset, load_split
from transformer_jax.data.grammar import corpus
from transformer_jax.data.text import TextError
from transformer_jax.data.wmt import BUILDERS
from transformer_jax.errors import UserError


@pytest.fixture
def load(tmp_path):
    def load(name, direction="en-de", data_dir=None):
        given = None if data_dir is None else str(data_dir)
        return load_dataset(name, direction, given, tmp_path / "cache")

    return load


def prepared_files(tmp_path):
    root = tmp_path / "cache" / "tensorflow_datasets"
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.array_record*")}


# Plain text ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for split, count in (("train", 5000), ("val", 7), ("test", 3)):
        for language in ("en", "fr"):
            lines = (f"{language} {split} {i} \u2028 é\x85" for i in range(count))
            text = "".join(f"{line}\n" for line in lines)
            (folder / f"{split}.{language}").write_bytes(text.encode())
    return folder


def test_text_files_come_back_in_order_either_way_round(load, folder):
    splits = load("text", "en-fr", folder)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 5000, "validation": 7, "test": 3,
    }  # fmt: skip
    expected = [(f"en train {i} \u2028 é\x85", f"fr train {i} \u2028 é\x85") for i in range(5000)]
    assert list(splits["train"]) == expected
    assert list(splits["train"]) == expected  # as often as one likes
    reverse = load("text", "fr-en", folder)["test"]
    assert list(reverse)[1] == ("fr test 1 \u2028 é\x85", "en test 1 \u2028 é\x85")
    assert reverse.identity != splits["test"].identity


@pytest.mark.parametrize(("size", "files"), [(700, 8), (1000, 5), (4999, 2), (5000, 1)])
def test_shards_hold_all_pairs_in_order(load, folder, tmp_path, monkeypatch, size, files):
    monkeypatch.setattr(builders, "SHARD", size)
    train = load("text", "en-fr", folder)["train"]
    assert sum("train" in path.name for path in prepared_files(tmp_path)) == files
    assert [pair[0] for pair in train] == [f"en train {i} \u2028 é\x85" for i in range(5000)]


def test_a_second_time_prepares_nothing_until_the_text_changes(load, folder, tmp_path):
    load("text", "en-fr", folder)
    before = prepared_files(tmp_path)
    assert len(before) == 3
    load("text", "en-fr", folder)
    assert prepared_files(tmp_path) == before
    (folder / "test.en").write_text("a\nb\nc\n")
    changed = load("text", "en-fr", folder)
    assert next(iter(changed["test"]))[0] == "a"
    assert prepared_files(tmp_path).items() > before.items()


def test_a_table_of_tabs(load, tmp_path):
    table = tmp_path / "pairs.tsv"
    table.write_text('id\tde\ten\n1\tJa "so".\tYes.\n2\t\tempty\n', encoding="utf-8")
    splits = load("text", "en-de", table)
    assert list(splits) == ["train"]
    assert list(splits["train"]) == [("Yes.", 'Ja "so".'), ("empty", "")]
    (tmp_path / "folder").mkdir()
    shutil.copy(table, tmp_path / "folder" / "train.tsv")
    shutil.copy(table, tmp_path / "folder" / "validation.tsv")
    assert list(load("text", "de-en", tmp_path / "folder")) == ["train", "validation"]


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "en\tfr\na\tb\n",
            r"pairs.tsv, line 1: of the columns 'en', 'fr' exactly one must",
        ),
        ("en\tde\ten\n", "line 1: of the columns .* exactly one must be 'en'"),
        ("", "line 1: of the columns '' exactly one"),
        ("en\tde\na\tb\na\tb\tc\n", r"pairs.tsv, line 3: 3 fields, but line 1 names 2"),
        ("en\tde\nab\n", r"line 2: 1 fields, but line 1 names 2"),
        (b"en\tde\na\tb\nc\t\xff\n", r"pairs.tsv, line 3: byte 2 is not UTF-8"),
    ],
)
def test_faults_of_a_table_are_named(load, tmp_path, text, message):
    (tmp_path / "pairs.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TextError, match=message):
        load("text", "en-de", tmp_path / "pairs.tsv")
    assert not prepared_files(tmp_path)


def test_faults_of_a_folder_are_named(load, folder, tmp_path):
    with pytest.raises(TextError, match=r"train.en is there but not .*train.de: give both"):
        load("text", "en-de", folder)
    (folder / "train.fr").write_text("one\n")
    with pytest.raises(TextError, match=r"train.en has 5000 lines but .*train.fr has 1"):
        load("text", "en-fr", folder)
    assert not prepared_files(tmp_path)


def test_half_a_pair_and_empty_texts_are_named(load, folder, tmp_path):
    (folder / "val.fr").unlink()
    with pytest.raises(TextError, match=r"val.en is there but not .*val.fr: give both or neither"):
        load("text", "en-fr", folder)
    for language in ("en", "fr"):
        (folder / f"val.{language}").write_text("")
    with pytest.raises(TextError, match=r"val.en and .*val.fr hold no lines: fill or remove them"):
        load("text", "en-fr", folder)
    with pytest.raises(TextError, match="nowhere is neither a folder of texts"):
        load("text", "en-fr", tmp_path / "nowhere")
    assert not prepared_files(tmp_path)


@pytest.mark.parametrize("how", ["no records", "cut", "no info", "broken info"])
def test_a_damaged_dataset_is_named(load, folder, tmp_path, how):
    load("text", "en-fr", folder)
    [info] = (tmp_path / "cache").rglob("dataset_info.json")
    [records] = info.parent.glob("*train.array_record*")
    if how == "no records":
        records.unlink()
    elif how == "cut":
        records.write_bytes(records.read_bytes()[:100])
    elif how == "no info":
        info.unlink()
    else:
        info.write_text("{")
    with pytest.raises(DatasetError, match=r"text.* cannot be read: remove it, and"):
        list(load("text", "en-fr", folder)["train"])
    shutil.rmtree(tmp_path / "cache" / "tensorflow_datasets" / "text")
    assert len(list(load("text", "en-fr", folder)["train"])) == 5000


def test_jobs_that_start_together_prepare_once(folder, tmp_path):
    code = (
        "import logging, sys; from pathlib import Path\n"
        "from transformer_jax.data.datasets import load_dataset\n"
        "logging.getLogger('transformer_jax').setLevel(logging.INFO); logging.basicConfig()\n"
        "sys.stdin.readline()\n"
        f"splits = load_dataset('text', 'en-fr', {str(folder)!r}, Path({str(tmp_path)!r}))\n"
        "assert len(list(splits['train'])) == 5000\n"
    )
    start = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(3)]
    time.sleep(3)  # all have imported what they need
    said = []
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    for job in jobs:
        said.append(job.communicate()[1])
        assert job.returncode == 0, said[-1]
    assert sum("preparing text" in text for text in said) == 1


@pytest.mark.parametrize(
    "name, direction, data_dir, message",
    [
        ("gramar", "en-de", None, "'gramar' is unknown; did you mean 'grammar'"),
        ("opus", "en-de", None, "'opus' is unknown; known: grammar, text, multi30k"),
        ("grammar/3k", "en-de", None, "no size '3k'; it has 10k, 30k"),
        ("grammar", "en-fr", None, "has no direction en-fr; it has en-de, de-en"),
        ("grammar", "en-de", "somewhere", "is written, not read: leave --data-dir out"),
        ("multi30k", "en-cs", None, "has no direction en-cs; it has en-de, en-fr, de-en"),
        ("multi30k/x", "en-de", None, "has no configuration 'x'"),
        ("wmt16_translate", "en-fr", None, "has no direction en-fr; it has de-en, en-de"),
        ("text", "en-de", None, "needs --data-dir"),
        ("text", "ende", "x", "'ende' is not two different languages, as in en-de"),
        ("text", "de-de", "x", "not two different languages"),
        ("text", "../x-de", "x", "not two different languages"),
    ],
)
def test_names_and_directions_that_are_not_there(load, name, direction, data_dir, message):
    with pytest.raises(UserError, match=message):
        load(name, direction, data_dir)


# The embedded corpus -------------------------------------------------------------------------


def test_the_embedded_corpus_with_its_annotations(load, monkeypatch, tmp_path):
    monkeypatch.setattr(Grammar, "SIZES", {"10k": 300})
    monkeypatch.setattr(Grammar, "HELD_OUT", 20)
    splits = load("grammar/10k", "de-en")
    assert {name: len(split) for name, split in splits.items()} == {
        name: 300 if name == "train" else 20 for name in corpus.SPLITS
    }
    for name, split in splits.items():
        expected = list(corpus.examples(name, len(split)))
        assert list(split) == [(e.german, e.english) for e in expected]
        for stored, example in zip(split.examples(), expected):
            assert stored["en"].decode() == example.english
            np.testing.assert_array_equal(
                stored["alignment"], np.reshape(example.alignment, (-1, 2))
            )
            places = [(part.pronoun, part.noun) for part in example.antecedents]
            np.testing.assert_array_equal(stored["antecedents"], np.reshape(places, (-1, 2)))
            found = zip(stored["span_labels"].decode().split(), stored["spans"].tolist())
            assert [(label, *span) for label, span in found] == list(example.spans)
            assert set(stored["tags"].decode().split()) == example.tags
    with pytest.raises(DatasetError, match="has no split 'dev'; it has train, validation, test"):
        load_split("grammar/10k", "dev", "en-de", None, tmp_path / "cache")
    # Another grammar is another dataset.
    before = splits["train"].identity
    monkeypatch.setattr(builders, "_grammar_digest", lambda: "0" * 64)
    assert load("grammar/10k", "de-en")["train"].identity != before


def test_no_tensorflow(folder, tmp_path):
    """Not even where tensorflow-datasets would shuffle on disk: beyond a gigabyte, here 10 kB."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tensorflow_datasets.core import shuffle; shuffle.MAX_MEM_BUFFER_SIZE = 10_000\n"
        "from transformer_jax.data.datasets import load_dataset\n"
        f"splits = load_dataset('text', 'en-fr', {str(folder)!r}, Path({str(tmp_path)!r}))\n"
        "assert len(list(splits['train'])) == 5000\n"
        "assert not {'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # it belongs to results


# Multi30k ------------------------------------------------------------------------------------


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


def test_multi30k_with_another_or_a_missing_file(load, captions, tmp_path):
    (captions / "val.fr.gz").write_bytes(gzip.compress(b"something else\n"))
    with pytest.raises(TextError, match=r"val.fr.gz is not Multi30k's val.fr: its SHA-256"):
        load("multi30k", "en-de", captions)
    (captions / "val.fr.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(TextError, match=r"val.fr.gz cannot be unpacked"):
        load("multi30k", "en-de", captions)
    (captions / "val.fr.gz").unlink()
    with pytest.raises(TextError, match=r"lacks val.fr \(or val.fr.gz\)"):
        load("multi30k", "en-de", captions)
    assert not prepared_files(tmp_path)


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


def test_multi30k_downloaded(load, captions, server, monkeypatch, tmp_path):
    monkeypatch.setattr(Multi30k, "URL", server)
    (captions / "val.fr.gz").write_bytes(gzip.compress(b"tampered with\n"))
    with pytest.raises(TextError, match=r"is not Multi30k's val.fr"):
        load("multi30k")
    assert not prepared_files(tmp_path)
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


def test_no_network(load, monkeypatch):
    monkeypatch.setattr(Multi30k, "URL", "http://127.0.0.1:9")
    with pytest.raises(TextError, match=r"127.0.0.1:9 cannot be reached .*give the files"):
        load("multi30k")


def test_the_real_multi30k(load, shared_data):
    splits = load("multi30k", "en-de", shared_data / "multi30k")
    assert [len(split) for split in splits.values()] == [29_000, 1014, 1000]
    for name, split in (("val", "validation"), ("test_2016_flickr", "test")):
        texts = [
            (shared_data / "multi30k" / f"{name}.{language}").read_text(encoding="utf-8")
            for language in ("en", "de")
        ]
        assert list(splits[split]) == list(zip(*(text[:-1].split("\n") for text in texts)))


# WMT -----------------------------------------------------------------------------------------


def sgm(language, year):
    lines = [f'<seg id="{i}">{language} {year} {i}</seg>' for i in range(1, 6)]
    return "\n".join([f'<refset trglang="{language}">', "<doc>", *lines, "</doc>", "</refset>", ""])


def archive(path, files):
    mode = "w:gz" if path.suffix == ".tgz" else "w"
    with tarfile.open(path, mode) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            data = text if isinstance(text, bytes) else text.encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def bitext(prefix, language, count, *, packed=False):
    files = {}
    for side in (language, "en"):
        text = "".join(f"{side} {prefix} {i}\n" for i in range(count)).encode()
        if packed:
            files[f"{prefix}.{side}.gz"] = gzip.compress(text)
        else:
            files[f"{prefix}.{side}"] = text
    return files


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """WMT's archives in small: the same names and the same files inside."""
    folder = tmp_path / "wmt"
    folder.mkdir()
    contents = {
        "training-parallel-europarl-v7.tgz": {
            **bitext("training/europarl-v7.de-en", "de", 60),
            **bitext("training/europarl-v7.fr-en", "fr", 50),
        },
        "training-parallel-commoncrawl.tgz": {
            **bitext("commoncrawl.de-en", "de", 30),
            **bitext("commoncrawl.fr-en", "fr", 20),
        },
        "training-parallel-nc-v9.tgz": {
            **bitext("training/news-commentary-v9.de-en", "de", 10),
            **bitext("training/news-commentary-v9.fr-en", "fr", 9),
        },
        "training-parallel-nc-v11.tgz": bitext(
            "training-parallel-nc-v11/news-commentary-v11.de-en", "de", 8
        ),
        "training-parallel-un.tgz": bitext("un/undoc.2000.fr-en", "fr", 7),
        "training-giga-fren.tar": bitext("giga-fren.release2.fixed", "fr", 6, packed=True),
        "dev.tgz": {
            **bitext("dev/newstest2013", "de", 2),
            **bitext("dev/newstest2013", "fr", 2),
            **{
                f"./dev/newstest{year}-{source}en-{kind}.{language}.sgm": sgm(language, year)
                for year in (2014, 2015, 2016)
                for source in ("de", "fr")
                for kind, language in (("src", source), ("ref", "en"))
            },
        },
    }
    on_record = dict(checksums.get_all_url_infos())
    for name, files in contents.items():
        archive(folder / name, files)
        urls = [url for url in on_record if url.endswith(f"/{name}")]
        assert urls
        for url in urls:
            on_record[url] = checksums.compute_url_info(folder / name)
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: on_record)
    for builder in BUILDERS.values():
        monkeypatch.setattr(builder, "url_infos", on_record)
    return folder


@pytest.mark.parametrize(
    "name, direction, counts",
    [
        ("wmt14_translate", "en-de", (60 + 30 + 10, 2, 5)),
        ("wmt14_translate", "fr-en", (50 + 20 + 9 + 7 + 6, 2, 5)),
        ("wmt16_translate", "de-en", (60 + 30 + 8, 5, 5)),
    ],
)
def test_wmt_from_archives(load, archives, tmp_path, monkeypatch, name, direction, counts):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    splits = load(name, direction, archives)
    assert tuple(len(splits[name]) for name in ("train", "validation", "test")) == counts
    source, target = direction.split("-")
    for split in splits.values():
        for left, right in split:
            assert left.startswith(f"{source} ")
            assert right == left.replace(f"{source} ", f"{target} ", 1)
    assert not list((tmp_path / "cache").rglob("*.sgm"))  # what was unpacked is gone
    assert "tensorflow" not in sys.modules
    # The other direction is prepared with it.
    before = prepared_files(tmp_path)
    reverse = load(name, f"{target}-{source}", archives)
    assert next(iter(reverse["test"]))[0].startswith(f"{target} ")
    assert prepared_files(tmp_path) == before


def test_wmt_with_missing_or_other_archives(load, archives, tmp_path):
    (archives / "dev.tgz").rename(tmp_path / "dev.tgz")
    with pytest.raises(UserError, match=r"wmt lacks dev.tgz: get http.*/dev.tgz, or leave"):
        load("wmt14_translate", "en-de", archives)
    (archives / "dev.tgz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"dev.tgz in .* is not the archive of http.* SHA-256"):
        load("wmt14_translate", "en-de", archives)
    assert not prepared_files(tmp_path)


def test_a_wmt_archive_without_its_files(load, archives, tmp_path, monkeypatch):
    archive(archives / "dev.tgz", {"dev/newstest2013.de": "x"})
    on_record = dict(checksums.get_all_url_infos())
    for url in on_record:
        if url.endswith("/dev.tgz"):
            on_record[url] = checksums.compute_url_info(archives / "dev.tgz")
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: on_record)
    with pytest.raises(UserError, match=r"dev.tgz holds no dev/newstest2013.en, dev/newstest2014"):
        load("wmt14_translate", "en-de", archives)
    assert not list((tmp_path / "cache").rglob("*.sgm"))


def test_wmt_without_network_or_archives(load, monkeypatch):
    for part in wmt.DATASET_MAP.values():
        monkeypatch.setattr(part, "_urls", ("http://127.0.0.1:9/a.tgz",))
    with pytest.raises(TextError, match="cannot be reached"):
        load("wmt14_translate", "en-de")
