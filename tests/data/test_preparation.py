import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from transformer_jax import DataConfig
from transformer_jax.data.corpus import Corpus, CorpusError
from transformer_jax.data.manifest import Manifest
from transformer_jax.data.preparation import cache_folder, prepare, prepare_cached
from transformer_jax.data.text import TextError
from transformer_jax.errors import UserError


def write(folder, source, target=None):
    folder.mkdir(exist_ok=True)
    (folder / "s").write_bytes(source)
    (folder / "t").write_bytes(source if target is None else target)
    return str(folder / "s"), str(folder / "t")


@pytest.fixture
def data(tmp_path):
    train = write(tmp_path / "train", b"one two three\nfour five\n" * 40)
    return DataConfig(train=train, max_length=64, batch_tokens=64)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "whitespace"])
@pytest.mark.parametrize(
    "source, target, message",
    [
        (b"a\n" * 7, b"a\n" * 4, r"s has 7 lines but .*t has 4"),
        (b"fine\nbad \xff\n", b"fine\nfine\n", r"s, line 2: byte 4 is not UTF-8"),
        (b"", b"", "hold no pair of lines with text on both sides"),
        (b"\n\n", b"\n\n", "hold no pair of lines with text on both sides"),
    ],
)
def test_preparation_names_text_errors_with_every_vocabulary(
    tmp_path, kind, source, target, message
):
    pair = write(tmp_path / "bad", source, target)
    config = DataConfig(train=pair, vocabulary=kind)
    with pytest.raises(UserError, match=message):
        prepare(config, 300, tmp_path / "out")
    assert Manifest.read(tmp_path / "out") is None


def test_preparation_checks_validation_text_first(tmp_path, data):
    validation = write(tmp_path / "validation", b"a\nb\n", b"a\n")
    with pytest.raises(TextError, match="has 2 lines but"):
        prepare(replace(data, validation=validation), 300, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_preparation_accepts_languages_later(tmp_path, data):
    out = prepare(data, 300, tmp_path / "out")
    before = Corpus.open(out / "train")
    assert before.direction is None
    prepare(replace(data, direction="en-fi"), 300, out)
    prepare(data, 300, out)
    after = Corpus.open(out / "train")
    assert (after.direction, after.fingerprint) == ("en-fi", before.fingerprint)


def test_preparation_is_kept_until_something_changes(tmp_path, data):
    out = tmp_path / "out"
    prepare(data, 300, out)
    first = Corpus.open(out / "train").fingerprint
    stamp = (out / "train" / "corpus.json").stat().st_mtime_ns
    prepare(data, 300, out)
    assert (out / "train" / "corpus.json").stat().st_mtime_ns == stamp
    (out / Manifest.FILE).write_text("[")
    prepare(data, 300, out)
    assert Corpus.open(out / "train").fingerprint == first
    with pytest.raises(CorpusError, match="was prepared from other text or with other settings"):
        prepare(data, 290, out)
    assert Corpus.open(out / "train").fingerprint == first


def test_cache_is_shared_by_runs_of_equal_text(tmp_path, data):
    cache = replace(data, cache_dir=str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    prepare_cached(cache, 300, first)
    [cached] = (tmp_path / "cache" / "corpora").iterdir()
    stamp = (cached / "train" / "corpus.json").stat()
    prepare_cached(cache, 300, second)
    assert (second / "train" / "corpus.json").samefile(first / "train" / "corpus.json")
    assert (second / "train" / "corpus.json").stat().st_mtime_ns == stamp.st_mtime_ns
    # A run keeps its text when the cache is cleared, and other settings are other text.
    shutil.rmtree(tmp_path / "cache")
    Corpus.open(first / "train").verify()
    prepare_cached(cache, 290, second)
    assert len(Corpus.open(second / "train").vocabularies.source) == 290
    assert len(Corpus.open(first / "train").vocabularies.source) == 300


def test_cache_damage_is_repaired(tmp_path, data):
    cache = replace(data, cache_dir=str(tmp_path / "cache"))
    prepare_cached(cache, 300, tmp_path / "first")
    [cached] = (tmp_path / "cache" / "corpora").iterdir()
    path = cached / "train" / "source.tokens.npy"
    intact = path.read_bytes()
    path.unlink()  # it is a link to the first folder's file
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    prepare_cached(cache, 300, tmp_path / "second")
    assert (tmp_path / "second" / "train" / "source.tokens.npy").read_bytes() == intact
    assert path.read_bytes() == intact


def test_cache_without_validation_is_rewritten(tmp_path, data):
    cache = replace(data, validation=data.train, cache_dir=str(tmp_path / "cache"))
    prepare_cached(cache, 300, tmp_path / "first")
    [cached] = (tmp_path / "cache" / "corpora").iterdir()
    shutil.rmtree(cached / "validation")
    prepare_cached(cache, 300, tmp_path / "second")
    second = Corpus.open(tmp_path / "second" / "validation")
    assert second.fingerprint == Corpus.open(tmp_path / "first" / "validation").fingerprint


@pytest.mark.parametrize("part", ["train", "validation"])
def test_preparation_never_overwrites_a_users_folder(tmp_path, data, part):
    (tmp_path / "mine" / part).mkdir(parents=True)
    (tmp_path / "mine" / part / "notes.txt").write_text("keep")
    with pytest.raises(CorpusError, match=f"mine/{part} is not prepared text"):
        prepare(data, 300, tmp_path / "mine")
    assert (tmp_path / "mine" / part / "notes.txt").read_text() == "keep"


def test_preparation_without_tensorflow_datasets(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("transformer_jax.data.")]:
        if name.endswith(("datasets", "builders", "wmt")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(CorpusError, match=r"needs tensorflow_datasets, .* and give --corpus"):
        prepare(DataConfig(dataset="grammar"), 300, tmp_path / "out")


def test_cache_location(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFORMER_JAX_CACHE", "/a")
    assert cache_folder("b") == tmp_path / "b"  # tests run in tmp_path
    assert cache_folder(None) == Path("/a")
    monkeypatch.delenv("TRANSFORMER_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder(None) == Path("/x/transformer_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None) == Path.home() / ".cache" / "transformer_jax"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "size, message", [(5000, r"at most \d+ pieces; lower"), (60, r"alone are \d+; raise")]
)
def test_preparation_vocabulary_size_that_does_not_fit_the_text(
    tmp_path, data, kind, size, message
):
    with pytest.raises(UserError, match=message):
        prepare(replace(data, vocabulary=kind), size, tmp_path / "out")


def test_preparation_removes_outdated_validation(tmp_path, data):
    out = tmp_path / "out"
    prepare(replace(data, validation=data.train), 300, out)
    assert (out / "validation").is_dir()
    (out / Manifest.FILE).unlink()
    prepare(data, 290, out)
    assert not (out / "validation").exists()


def test_preparation_uses_a_given_vocabulary(tmp_path, data):
    prepare(data, 300, tmp_path / "one")
    given = Corpus.open(tmp_path / "one" / "train").vocabularies
    other = replace(data, train=write(tmp_path / "other", b"quite another text\n" * 50))
    prepare(other, 300, tmp_path / "two", given)
    found = Corpus.open(tmp_path / "two" / "train").vocabularies
    assert found.source.to_bytes() == given.source.to_bytes()


@pytest.mark.parametrize("text", ["[]", '{"format": 2}', "{", '{"format": 1}', '{"format": 2, "fi'])
def test_preparation_rejects_damaged_corpus_json(tmp_path, data, text):
    prepare(data, 300, tmp_path / "out")
    (tmp_path / "out" / "train" / "corpus.json").write_text(text)
    with pytest.raises(CorpusError, match="prepare it again"):
        Corpus.open(tmp_path / "out" / "train")


def test_fingerprint_includes_the_vocabulary(tmp_path):
    """Renamed tokens give the same ids."""
    prints = []
    for name, text in (("a", b"w1 w2\nw1\n"), ("b", b"x1 x2\nx1\n")):
        pair = write(tmp_path / name, text)
        out = prepare(DataConfig(train=pair, vocabulary="whitespace"), 300, tmp_path / (name + "o"))
        prints.append(Corpus.open(out / "train").fingerprint)
    assert prints[0] != prints[1]
