import re

import pytest
import sacrebleu

from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import (
    default_score,
    missing_tokenizer,
    paper_bleu,
    paper_tokens,
    sacrebleu_score,
    score_all,
    split_compounds,
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
def test_compound_split_equals_the_perl_script(line, expected):
    assert split_compounds(line) == expected


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


def test_scores_have_signatures():
    scores = score_all(["Ein Mann reitet."], ["Ein Mann reitet ein Pferd."], "de")
    assert [s.name for s in scores] == ["BLEU", "chrF", "TER", "compound-split BLEU"]
    signatures = [s.signature for s in scores]
    assert len(set(signatures)) == 4
    assert all(re.search(r"version:\d", s) for s in signatures)
    assert "sacremoses" in signatures[3]


ZH = ["我今天去学校上课。", "他昨天买了一本新书。"]
REFERENCES = {
    "zh": ["我今天去学校上学。", "他昨天买了一本旧书。"],
    "ja": ["私は今日学校へ行きます。", "彼は昨日新しい本を買いました。"],
    "ko": ["나는 오늘 학교에 갑니다.", "그는 어제 새 책을 샀습니다."],
}
HYPOTHESES = {
    "zh": ZH,
    "ja": ["私は今日学校へ行きました。", "彼は昨日古い本を買いました。"],
    "ko": ["나는 오늘 학교에 갔습니다.", "그는 어제 헌 책을 샀습니다."],
}


@pytest.mark.parametrize("language", REFERENCES)
def test_tokenizers_are_sacrebleus(language):
    """Against sacreBLEU's own command, `sacrebleu -l en-zh`."""
    if missing := missing_tokenizer(language):
        pytest.skip(missing)
    files = [HYPOTHESES[language], REFERENCES[language]]
    score = sacrebleu_score("BLEU", *files, language)
    by_itself = sacrebleu.BLEU(trg_lang=language)
    assert score.value == by_itself.corpus_score(files[0], [files[1]]).score > 10
    assert score.signature == str(by_itself.get_signature())
    if language != "ko":  # which has spaces
        assert sacrebleu_score("BLEU", *files).value < 5


def test_scores_that_mean_nothing_in_a_language_are_left_out(monkeypatch, caplog):
    def names(language):
        return [s.name for s in score_all(["Das ist gut."], ["Das ist gut."], language)]

    assert names("fr") == names(None) == ["BLEU", "chrF", "TER"]
    assert names("th") == ["chrF"]
    monkeypatch.setattr("transformer_jax.evaluation.bleu.find_spec", lambda name: None)
    assert names("ja") == ["chrF", "TER"]
    message = "BLEU of ja needs MeCab and ipadic, which is not installed here: pip install "
    assert f"{message}'sacrebleu[ja]'" in caplog.text
    with pytest.raises(UserError, match=re.escape(message)):
        sacrebleu_score("BLEU", ["x"], ["x"], "ja")


def test_ter_of_chinese_counts_characters():
    """One character of nine is wrong; as a whole each sentence would be one wrong word."""
    assert sacrebleu_score("TER", ZH[:1], REFERENCES["zh"][:1], "zh").value < 15
    assert sacrebleu_score("TER", ZH[:1], REFERENCES["zh"][:1]).value == 100


def test_default_bleu_depends_on_the_vocabulary():
    words = WhitespaceVocabulary.train(["pul@@ ley sys@@ tem b c"], 50)
    tokens = default_score("BLEU", words, ["pul@@ ley a b c d"], ["pulley a b c d"], "en")
    assert (tokens.name, tokens.value) == ("tokenized BLEU", pytest.approx(100))
    assert default_score("chrF", words, ["pul@@ ley"], ["pulley"], "th").name == "chrF"


def test_compound_split_changes_the_score():
    """Half a compound right earns something once it is split."""
    hypothesis, reference = ["das alte Rock-Konzert war gut"], ["das alte Pop-Konzert war gut"]
    assert (
        paper_bleu(hypothesis, reference, "de").value > tokenized_bleu(hypothesis, reference).value
    )


def test_scores_reject_unequal_counts():
    with pytest.raises(ValueError, match="1 translations cannot be scored against 2 references"):
        sacrebleu_score("BLEU", ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no references"):
        tokenized_bleu([], [])
