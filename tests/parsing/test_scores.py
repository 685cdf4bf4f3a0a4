"""Labelled brackets by hand."""

import pytest

from transformer_jax.parsing.scores import BracketCounts, count_brackets, score_parses
from transformer_jax.parsing.trees import Tree, parse_brackets

GOLD = parse_brackets(
    "(TOP (S (NP (DT The) (NN dog)) (VP (VBD ran) (PRT (RP off)) (, ,) (PP (IN to) (NP (PRP us)))) "
    "(. .)))"
)


def counts(text):
    return count_brackets(GOLD, text and parse_brackets(text))


def test_gold_tree_matches_itself():
    # S, NP, VP, PRT, PP, NP over six words: TOP, the comma and the full stop are deleted.
    assert counts(str(GOLD)) == BracketCounts(6, 6, 6, 1, 1, 6, 6)


@pytest.mark.parametrize(
    "parse, expected",
    [
        # PRT and ADVP are one label, and punctuation may hang elsewhere and have another tag.
        ("(TOP (S (NP (DT The) (NN dog)) (VP (VBD ran) (ADVP (RP off)) (PP (, ,) (IN to) (NP "
         "(PRP us)) (NN .)))))", BracketCounts(6, 6, 6, 1, 1, 6, 6)),
        # The PP hangs below S; a unary NP is one too many; "off" has another tag.
        ("(TOP (S (NP (NP (DT The) (NN dog))) (VP (VBD ran) (PRT (RB off))) (, ,) (PP (IN to) "
         "(NP (PRP us))) (. .)))", BracketCounts(5, 7, 6, 0, 1, 5, 6)),
        # A flat tree.
        ("(TOP (DT The) (NN dog) (VBD ran) (RP off) (, ,) (IN to) (PRP us) (. .))",
         BracketCounts(0, 0, 6, 0, 1, 6, 6)),
        # Other words, and no parse at all: everything is missing.
        ("(TOP (S (NN dog)))", BracketCounts(0, 0, 6, 0, 1, 0, 6)),
        (None, BracketCounts(0, 0, 6, 0, 1, 0, 6)),
    ],
)  # fmt: skip
def test_counts_by_hand(parse, expected):
    assert counts(parse) == expected


def test_constituents_of_deleted_words_do_not_count():
    gold = parse_brackets("(TOP (S (PRN (`` ``) ('' '')) (NP (NN a))))")
    parse = parse_brackets("(TOP (S (`` ``) ('' '') (NP (NN a))))")
    assert count_brackets(gold, parse) == BracketCounts(2, 2, 2, 1, 1, 1, 1)


def test_scores_add_counts_up_and_keep_short_sentences_apart():
    long = Tree("TOP", (Tree("S", tuple(Tree("NN", word=f"w{n}") for n in range(41))),))
    found = {s.name: s for s in score_parses([GOLD, long, GOLD], [GOLD, None, None])}
    assert found["F1"].value == pytest.approx(200 * 6 / (6 + 13))
    assert found["precision"].value == 100 and found["recall"].value == pytest.approx(600 / 13)
    assert found["exact match"].value == pytest.approx(100 / 3)
    assert found["tagging accuracy"].value == pytest.approx(600 / 53)
    assert found["F1, up to 40 words"].value == pytest.approx(200 * 6 / (6 + 12))
    assert found["F1"].signature.startswith("F1|nsent:3|prm:COLLINS|deleted:TOP+-NONE-+punct")
    with pytest.raises(ValueError, match="1 parses cannot be scored against 2 trees"):
        score_parses([GOLD, GOLD], [GOLD])
