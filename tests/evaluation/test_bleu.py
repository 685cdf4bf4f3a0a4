import re

import pytest

from transformer_jax.evaluation.bleu import (
    compound_split,
    paper_bleu,
    paper_tokens,
    sacre_score,
    score_all,
    tokenized_bleu,
)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("rich-text", "rich ##AT##-##AT## text"),
        # Matches do not overlap: \S after the hyphen is used up.
        ("a-b-c", "a ##AT##-##AT## b-c"),
        ("ab-cd-ef", "ab ##AT##-##AT## cd ##AT##-##AT## ef"),
        ("a-b-c-d", "a ##AT##-##AT## b-c ##AT##-##AT## d"),
        ("x - y", "x - y"),
        ("-y x-", "-y x-"),
        ("a--b", "a ##AT##-##AT## -b"),
        ("---", "- ##AT##-##AT## -"),
        # Bytes: the last byte of ä and the first of ö are the two \S.
        ("ä-ö-ü", "ä ##AT##-##AT## ö ##AT##-##AT## ü"),
        # Perl's \s on bytes has no no-break space, whose bytes are C2 A0.
        ("a-\u00a0b", "a ##AT##-##AT## \u00a0b"),
    ],
)
def test_compounds_follow_perl(line, expected):
    assert compound_split(line) == expected


def test_paper_tokens():
    assert paper_tokens("Das „Rock-Konzert“, gut…", "de").split()[0] == "Das"
    assert "Rock ##AT##-##AT## Konzert" in paper_tokens("Ein Rock-Konzert.", "de")
    assert paper_tokens("Wie？", "de") == "Wie ?"
    assert paper_tokens("a & b", "de") == "a &amp; b"


def test_scores_by_hand():
    """One sentence, five tokens, one wrong at the end: precisions 4/5, 3/4, 2/3, 1/2."""
    score = tokenized_bleu(["a b c d x"], ["a b c d e"])
    assert score.value == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert tokenized_bleu(["A b c d"], ["a b c d"]).value < 100
    assert tokenized_bleu(["A b c d"], ["a b c d"], lowercase=True).value == pytest.approx(100)
    assert tokenized_bleu(["a b"], ["a b c d"]).value == 0  # no 4-gram, no smoothing


def test_every_score_carries_its_signature():
    scores = score_all(["Ein Mann reitet."], ["Ein Mann reitet ein Pferd."], "de")
    assert [s.name for s in scores] == ["BLEU", "chrF", "TER", "compound-split BLEU"]
    signatures = [s.signature for s in scores]
    assert len(set(signatures)) == 4
    assert all(re.search(r"version:\d", s) for s in signatures)
    assert "sacremoses" in signatures[3]


def test_splitting_compounds_changes_the_score():
    """Half a compound right earns something once it is split."""
    hypothesis, reference = ["das alte Rock-Konzert war gut"], ["das alte Pop-Konzert war gut"]
    assert (
        paper_bleu(hypothesis, reference, "de").value > tokenized_bleu(hypothesis, reference).value
    )


def test_unequal_counts():
    with pytest.raises(ValueError, match="1 translations cannot be scored against 2 references"):
        sacre_score("BLEU", ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no references"):
        tokenized_bleu([], [])
