"""Treebanks as text: where trees are found, and what identifies them."""

import pytest

from tests.parsing.toy import write_treebank
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.errors import UserError
from transformer_jax.parsing import delinearize, read_trees, words
from transformer_jax.parsing.scores import labelled_spans
from transformer_jax.parsing.treebank import Treebank, sentence_of, tree_of_spans


def test_treebank_is_read_as_sentences_and_symbols(tmp_path):
    trees = write_treebank(tmp_path / "bank", 20, 0)
    pairs = list(Treebank(str(tmp_path / "bank"), "in-order"))
    assert len(pairs) == 20
    for tree, (sentence, symbols) in zip(trees, pairs):
        assert delinearize(symbols.split(), sentence.split(), "in-order") == tree


def test_sections_of_a_treebank_are_read_by_their_numbers(tmp_path):
    expected = []
    for section in range(1, 6):
        (tmp_path / f"{section:02}").mkdir()
        trees = write_treebank(tmp_path / f"{section:02}" / "wsj.mrg", 3, section)
        expected += trees if 2 <= section <= 4 else []
    bank = Treebank(str(tmp_path / "02-04"), "vinyals")
    assert list(bank.trees()) == list(read_trees(tmp_path / "02-04")) == expected
    assert list(Treebank(str(tmp_path / "05"), "vinyals").trees()) == trees
    with pytest.raises(UserError, match=r"there is no folder .*06: give sections that exist"):
        list(Treebank(str(tmp_path / "04-07"), "vinyals").trees())
    with pytest.raises(UserError, match="there is no folder"):
        list(Treebank(str(tmp_path / "04-03"), "vinyals").trees())


def test_identity_is_that_of_the_trees_and_their_order(tmp_path):
    for name in ("one", "same", "other"):
        write_treebank(tmp_path / name, 5, name == "other")
    one, same, other = (
        Treebank(str(tmp_path / name), "vinyals").identity for name in ("one", "same", "other")
    )
    assert one == same != other
    assert Treebank(str(tmp_path / "one"), "in-order").identity != one
    (tmp_path / "folder").mkdir()
    write_treebank(tmp_path / "folder" / "a.mrg", 5, 0)
    write_treebank(tmp_path / "folder" / "b.mrg", 5, 1)
    both = Treebank(str(tmp_path / "folder"), "vinyals").identity
    assert both not in (one, other)
    write_treebank(tmp_path / "folder" / "b.mrg", 5, 2)
    assert Treebank(str(tmp_path / "folder"), "vinyals").identity != both


def test_phrases_of_the_embedded_corpus_are_trees():
    for example in examples("train", 200):
        tokens = example.english.split()
        tree = tree_of_spans(tokens, example.spans)
        assert words(tree) == tokens
        assert tuple(labelled_spans(tree, [True] * len(tokens))) == example.spans


def test_words_with_the_sign_of_a_space_stay_one_word():
    assert sentence_of(["a\u2581b", "c"]) == "a_b c"
