"""Datasets by name, prepared and read for real: text files and the embedded corpus."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from transformer_jax.data import builders
from transformer_jax.data.builders import Grammar
from transformer_jax.data.datasets import DatasetError
from transformer_jax.data.grammar import corpus
from transformer_jax.data.text import TextError
from transformer_jax.errors import UserError


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


def test_dataset_keeps_order_in_both_directions(load, folder):
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
def test_dataset_shards_hold_all_pairs_in_order(
    load, folder, prepared_files, monkeypatch, size, files
):
    monkeypatch.setattr(builders, "EXAMPLES_PER_SHARD", size)
    train = load("text", "en-fr", folder)["train"]
    assert sum("train" in path.name for path in prepared_files()) == files
    assert [pair[0] for pair in train] == [f"en train {i} \u2028 é\x85" for i in range(5000)]


def test_dataset_is_prepared_again_only_when_its_text_changes(load, folder, prepared_files):
    load("text", "en-fr", folder)
    before = prepared_files()
    assert len(before) == 3
    load("text", "en-fr", folder)
    assert prepared_files() == before
    (folder / "test.en").write_text("a\nb\nc\n")
    changed = load("text", "en-fr", folder)
    assert next(iter(changed["test"]))[0] == "a"
    assert prepared_files().items() > before.items()


def test_dataset_from_a_tsv_file(load, tmp_path):
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
def test_dataset_tsv_errors_are_named(load, tmp_path, text, message, prepared_files):
    (tmp_path / "pairs.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TextError, match=message):
        load("text", "en-de", tmp_path / "pairs.tsv")
    assert not prepared_files()


def test_dataset_folder_errors_are_named(load, folder, prepared_files):
    with pytest.raises(TextError, match=r"train.en is there but not .*train.de: give both"):
        load("text", "en-de", folder)
    (folder / "train.fr").write_text("one\n")
    with pytest.raises(TextError, match=r"train.en has 5000 lines but .*train.fr has 1"):
        load("text", "en-fr", folder)
    assert not prepared_files()


def test_dataset_incomplete_pairs_and_empty_files_are_named(load, folder, tmp_path, prepared_files):
    (folder / "val.fr").unlink()
    with pytest.raises(TextError, match=r"val.en is there but not .*val.fr: give both or neither"):
        load("text", "en-fr", folder)
    for language in ("en", "fr"):
        (folder / f"val.{language}").write_text("")
    with pytest.raises(TextError, match=r"val.en and .*val.fr hold no lines: fill or remove them"):
        load("text", "en-fr", folder)
    with pytest.raises(TextError, match="nowhere is neither a folder of texts"):
        load("text", "en-fr", tmp_path / "nowhere")
    assert not prepared_files()


@pytest.mark.parametrize("how", ["no records", "cut", "no info", "broken info"])
def test_dataset_damage_is_named(load, folder, tmp_path, how):
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


def test_dataset_is_prepared_once_by_concurrent_jobs(folder, tmp_path):
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
        ("grammar", "en-fr", None, "has no direction 'en-fr'; did you mean 'en-de'"),
        ("grammar", "en-de", "somewhere", "is generated, not read: leave --data-dir out"),
        ("multi30k", "en-cs", None, "has no direction 'en-cs'; did you mean"),
        ("multi30k/x", "en-de", None, "has no configuration 'x'"),
        ("wmt16_translate", "en-fr", None, "has no direction 'en-fr'; did you mean"),
        ("text", "en-de", None, "needs --data-dir"),
        ("text", "ende", "x", "'ende' is not two different languages with a hyphen"),
        ("text", "de-de", "x", "not two different languages"),
        ("text", "../x-de", "x", "not two different languages"),
    ],
)
def test_dataset_unknown_names_and_directions(load, name, direction, data_dir, message):
    with pytest.raises(UserError, match=message):
        load(name, direction, data_dir)


# The embedded corpus -------------------------------------------------------------------------


def test_dataset_grammar_with_annotations(load, monkeypatch, tmp_path):
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
    # Another grammar is another dataset.
    before = splits["train"].identity
    monkeypatch.setattr(builders, "_grammar_digest", lambda: "0" * 64)
    assert load("grammar/10k", "de-en")["train"].identity != before


def test_dataset_needs_no_tensorflow(folder, tmp_path):
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
