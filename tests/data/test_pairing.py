"""How a task makes arrays of text: vocabularies, ends, empty sides, and what is ignored."""

from dataclasses import replace

import numpy as np
import pytest

from transformer_jax import DataConfig
from transformer_jax.data.batching import Batches
from transformer_jax.data.corpus import Corpus, CorpusError, write_corpus
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.preparation import prepare
from transformer_jax.data.vocabulary import Vocabularies, WhitespaceVocabulary

CONFIG = DataConfig(batch_tokens=32, max_batch_shapes=3, max_length=16)


def vocabularies():
    return Vocabularies(
        WhitespaceVocabulary.train(["a b c d"], 99), WhitespaceVocabulary.train(["X Y"], 99)
    )


def test_pairing_vocabulary_and_eos_per_side(tmp_path):
    pairing = Pairing(joint=False, source_ends=False)
    pairs = [("a b", "X"), ("c", "Y X")]
    corpus = write_corpus(tmp_path / "c", pairs, vocabularies(), 16, pairing=pairing)
    assert corpus.source.rows(np.array([0, 1]), 2).tolist() == [[4, 5], [6, 0]]
    assert corpus.target.rows(np.array([0, 1]), 3).tolist() == [[4, 1, 0], [5, 4, 1]]
    again = Corpus.open(tmp_path / "c")
    again.verify()
    assert [len(each) for each in again.vocabularies] == [8, 6]
    assert str(again.vocabularies) == "8 + 6" and not again.vocabularies.joint
    # Another vocabulary of the target is another corpus.
    other = Vocabularies(vocabularies().source, WhitespaceVocabulary.train(["X Y Z"], 99))
    assert write_corpus(tmp_path / "o", pairs, other, 16, pairing=pairing).fingerprint != (
        corpus.fingerprint
    )


def test_pairing_of_a_language_model_has_no_source(tmp_path):
    pairing = Pairing(reads_source=False)
    lines = ["a b c", "d", "a a b b"] * 4
    corpus = write_corpus(
        tmp_path / "c", zip(lines, lines), vocabularies().source, 16, pairing=pairing
    )
    assert corpus.source.lengths.tolist() == [0] * 12
    batches = Batches(corpus, CONFIG, seed=0)
    first = batches.batch(0)
    assert first.source.shape == (first.target.shape[0], 0)
    visited = np.concatenate([batch.indices for batch in batches.one_epoch()])
    assert sorted(visited[visited >= 0].tolist()) == list(range(12))


def test_pairing_ignored_id_fills_ended_targets(tmp_path):
    corpus = write_corpus(
        tmp_path / "c", [("a b", "X"), ("c", "Y X")], vocabularies(), pairing=Pairing(joint=False)
    )
    [batch] = Batches(corpus, replace(CONFIG, max_batch_shapes=1), seed=0, ignored=-1).one_epoch()
    rows = {i: row.tolist() for i, row in zip(batch.indices, batch.target)}
    assert rows[0] == [4, 1, -1] and rows[1] == [5, 4, 1]
    assert rows[-1] == [-1, -1, -1]  # an empty row
    assert (batch.source >= 0).all()


def test_pairing_aligned_sides_have_equal_lengths(tmp_path):
    pairing = Pairing(joint=False, source_ends=False, target_ends=False, aligned=True)
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 50)
    pairs = [(" ".join("a" * n), " ".join("X" * n)) for n in sizes]
    corpus = write_corpus(tmp_path / "c", pairs, vocabularies(), 16, pairing=pairing)
    batches = Batches(corpus, CONFIG, seed=0)
    assert len(batches.shapes) > 1
    assert all(shape.source == shape.target for shape in batches.shapes)
    with pytest.raises(CorpusError, match="pair 2: 1 source tokens but 2 target tokens"):
        write_corpus(
            tmp_path / "d", [("a", "X"), ("b", "X Y")], vocabularies(), 16, pairing=pairing
        )


def test_pairing_is_part_of_prepared_text(tmp_path):
    (tmp_path / "words").write_text("a b\nc\n")
    (tmp_path / "tags").write_text("X Y\nX\n")
    pair = str(tmp_path / "words"), str(tmp_path / "tags")
    data = DataConfig(train=pair, vocabulary="whitespace")
    pairing = Pairing(joint=False)
    prepare(data, 6, tmp_path / "out", target_vocab_size=5, pairing=pairing)
    found = Corpus.open(tmp_path / "out" / "train").vocabularies
    assert [len(each) for each in found] == [6, 5]
    prepare(data, 6, tmp_path / "out", target_vocab_size=5, pairing=pairing)
    for options in ({"target_vocab_size": 6, "pairing": pairing}, {}):
        with pytest.raises(CorpusError, match="from other text or with other settings"):
            prepare(data, 6, tmp_path / "out", **options)
