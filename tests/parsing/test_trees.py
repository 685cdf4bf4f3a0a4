"""Brackets of treebanks: what is read, what is refused, and what cleaning leaves."""

import os
from pathlib import Path

import pytest

from transformer_jax.parsing import (
    Tree,
    TreeError,
    clean_tree,
    parse_brackets,
    read_trees,
    spell,
    words,
    write_brackets,
)

SHARED = Path(os.environ.get("TRANSFORMER_JAX_SHARED", Path(__file__).parents[3] / "shared"))
CRAFT = SHARED / "data" / "treebank-craft"
# As the Wall Street Journal's files have it: no outer label, functions, indices, traces.
WSJ = """
( (S
    (NP-SBJ-1 (-LRB- -LRB-) (NNP Mr.) (NNP Vinken) (-RRB- -RRB-) )
    (VP (VBD was)
      (VP (VBN named)
        (S
          (NP-SBJ (-NONE- *-1) )
          (NP-PRD (`` ``) (DT a) (JJ nonexecutive) (NN director) ('' '') ))
        (ADVP|PRT (RB up) )))
    (. .) ))
( (FRAG (NP=2 (-NONE- *?*) ) (UH Yes) ))
( (S (NP-SBJ (-NONE- *) ) ))
"""


def test_wsj_file_is_read_and_cleaned(tmp_path):
    for folder, name in (("01", "wsj_0102"), ("00", "wsj_0003")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.mrg").write_text(WSJ)
    (tmp_path / "readme").write_text("no trees")
    found = [str(tree) for tree in read_trees(tmp_path)]
    assert found == 2 * [
        "(TOP (S (NP (-LRB- -LRB-) (NNP Mr.) (NNP Vinken) (-RRB- -RRB-)) (VP (VBD was) (VP (VBN "
        "named) (S (NP (`` ``) (DT a) (JJ nonexecutive) (NN director) ('' ''))) (ADVP (RB up)))) "
        "(. .)))",
        "(TOP (FRAG (UH Yes)))",
    ]
    raw = list(read_trees(tmp_path / "00" / "wsj_0003.mrg", clean=False))
    assert (
        len(raw) == 3
        and raw[0].label == ""
        and raw[0].children[0].children[0].label == ("NP-SBJ-1")
    )
    assert parse_brackets(write_brackets(raw[0])) == raw[0]
    assert words(raw[2]) == ["*"]


@pytest.mark.parametrize(
    "before, after",
    [
        ("(S (NP (NP (PRP We))))", "(TOP (S (NP (NP (PRP We)))))"),
        ("(ROOT (S (PRP We)))", "(TOP (S (PRP We)))"),
        ("(S1 (UH Yes))", "(TOP (UH Yes))"),
        ("(UH Yes)", "(TOP (UH Yes))"),
        ("(NP (-NONE- *) (CD 3-4) (PRP$ its) (: -) (X-1 (LS a)))",
         "(TOP (NP (CD 3-4) (PRP$ its) (: -) (X (LS a))))"),
    ],
)  # fmt: skip
def test_cleaning(before, after):
    assert str(clean_tree(parse_brackets(before))) == after
    assert clean_tree(parse_brackets(after)) == parse_brackets(after)


@pytest.mark.parametrize(
    "text, message",
    [
        ("(S (NP (PRP We))", "line 1, column 1: this bracket is never closed"),
        ("(S (NP\n  (PRP We)", "line 1, column 4: this bracket is never closed"),
        ("(S (PRP We))\n)", "line 2, column 1: a bracket is closed that was not opened"),
        ("(S (PRP We)) (S (PRP I))", "line 1, column 14: a second tree on one line"),
        ("(S (NP ) (VP (VB go)))", "line 1, column 8: the bracket that is closed here holds no wo"),
        ("()", "line 1, column 2: the bracket that is closed here holds no word"),
        ("(S)", "line 1, column 3: the bracket that is closed here holds no word"),
        ("We left", "line 1, column 1: 'We' stands outside of brackets"),
        ("(S (PRP We) left)", "line 1, column 13: 'left' stands beside brackets, and has no tag"),
        ("(S (PRP We all))", "line 1, column 12: 'all' is a second word in one bracket"),
        ("(S (PRP We (NN x)))", "line 1, column 12: a bracket after the word 'We'"),
        ("(X " * 200 + "(NN a)" + ")" * 200, "column 451: more than 150 brackets are open"),
        ("", "holds no tree: give a treebank in brackets"),
    ],
)
def test_bad_brackets_are_refused_with_their_place(tmp_path, text, message):
    path = tmp_path / "a.trees"
    path.write_text(text)
    with pytest.raises(TreeError) as told:
        list(read_trees(path))
    assert str(told.value).startswith(str(path)) and message in str(told.value)


def test_texts_that_are_no_single_tree(tmp_path):
    with pytest.raises(TreeError, match="the text holds 0 trees, not one"):
        parse_brackets(" ")
    with pytest.raises(TreeError, match="gold holds 2 trees, not one"):
        parse_brackets("(A b)\n(A b)", "gold")
    with pytest.raises(TreeError, match=r"holds no file .mrg with trees"):
        list(read_trees(tmp_path))


def test_words_with_brackets():
    tree = Tree("TOP", tuple(Tree("NN", word=spell(word)) for word in ("f(x)", "[", "-")))
    assert str(tree) == "(TOP (NN f-LRB-x-RRB-) (NN [) (NN -))"
    assert parse_brackets(str(tree)) == tree


def test_every_tree_of_the_treebank_is_written_as_it_stands():
    if not CRAFT.is_dir():
        pytest.skip("no treebank-craft in TRANSFORMER_JAX_SHARED: 2,780 trees not read")
    lines = (CRAFT / "val.trees").read_text("utf-8").splitlines()
    assert [str(tree) for tree in read_trees(CRAFT / "val.trees")] == lines
