import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.segmentation import join_pieces, split_long_line, split_sentences

SCRIPTS = 'ab .,;!?\u2014(\u3000\u3002\u4f60\u0301\u0e01\u0e31\u0964\U0001f468\u200d"\u201d'
LINES = st.text(alphabet="ab .,;!?\u2014(", max_size=80).map(str.strip)


@given(LINES | st.text(SCRIPTS, max_size=80).map(str.strip), st.integers(1, 12))
def test_split_long_line_pieces_fit_and_lose_nothing(line, limit):
    pieces = split_long_line(line, lambda text: len(text) <= limit)
    assert all(len(piece) <= limit for piece in pieces)
    assert pieces == [line] or "" not in pieces
    assert "".join("".join(pieces).split()) == "".join(line.split())


@pytest.mark.parametrize(
    "line, limit, pieces",
    [
        ("All of it.", 10, ["All of it."]),
        ("One. Two. Three.", 9, ["One. Two.", "Three."]),  # as many sentences as fit
        ("When it rains, we stay (at home).", 16, ["When it rains,", "we stay", "(at home)."]),
        ("a b c d e", 3, ["a b", "c d", "e"]),
        ("One. abcdef, g", 4, ["One.", "abcd", "ef,", "g"]),  # the worst place only where it must
        ("", 5, [""]),
        # Other scripts, with and without spaces between sentences.
        ("你好。你是谁？我很好！", 6, ["你好。", "你是谁？", "我很好！"]),
        ("「你好。」他说。", 5, ["「你好。」", "他说。"]),
        ("甲乙？！丙丁", 4, ["甲乙？！", "丙丁"]),
        ("价格为３．５元。好", 8, ["价格为３．５元。", "好"]),
        ("３．５元", 3, ["３．５", "元"]),
        ("甲乙，丙丁；戊", 4, ["甲乙，", "丙丁；戊"]),
        ("यह एक है। वह दो है।", 10, ["यह एक है।", "वह दो है।"]),
        ("كيف حالك؟ أنا بخير، شكرا", 12, ["كيف حالك؟", "أنا بخير،", "شكرا"]),
        ("یہ ایک ہے۔ وہ", 10, ["یہ ایک ہے۔", "وہ"]),
        ('"Go." he said.', 8, ['"Go."', "he said."]),
        # A letter with its accent, a family of four, a flag: each is one character to a reader.
        ("e\u0301e\u0301e\u0301", 3, ["e\u0301", "e\u0301", "e\u0301"]),
        ("👨‍👩‍👧x🇩🇪", 6, ["👨‍👩‍👧x", "🇩🇪"]),
        ("e" + "\u0301" * 5, 4, ["e" + "\u0301" * 3, "\u0301" * 2]),  # more than fits
    ],
)
def test_split_long_line_positions(line, limit, pieces):
    assert split_long_line(line, lambda text: len(text) <= limit) == pieces


def test_split_sentences_limits_input_of_the_splitter(monkeypatch):
    given = []

    def segment(language, text):
        given.append(text)
        return [text]

    monkeypatch.setattr("sentencex.segment", segment)
    split_sentences("one two " * 5000, "en")
    assert max(map(len, given)) <= 10_000
    assert " ".join(given).split() == ["one", "two"] * 5000


def test_split_long_line_is_linear_on_a_megabyte():
    measured = 0

    def fits(text):
        nonlocal measured
        measured += len(text)
        return len(text) <= 256

    assert len(split_long_line("x" * 1_000_000, fits)) == 3907
    assert measured < 20 * 1_000_000
    assert split_long_line("a" + " " * 1_000_000 + "b", lambda text: len(text) <= 2) == ["a", "b"]


@pytest.mark.parametrize(
    "pieces, line",
    [
        (["One.", "Two."], "One. Two."),
        (["你好。", "谁？"], "你好。谁？"),
        (["我用 GDP", "一词"], "我用 GDP一词"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["안녕.", "하세요."], "안녕. 하세요."),  # Korean has spaces
        (["", "a", "", "b"], "a b"),
        ([], ""),
    ],
)
def test_join_pieces_by_script(pieces, line):
    assert join_pieces(pieces, None) == line


def test_join_pieces_by_language():
    assert (
        join_pieces(["It is written 好", "The man left."], "en") == "It is written 好 The man left."
    )
    assert join_pieces(["你好。", "OK"], "cmn") == "你好。OK"
    assert join_pieces(["GDP", "OK"], "zh") == "GDP OK"


@pytest.mark.parametrize(
    "language, line, count",
    [
        ("en", "Dr. Smith arrived at 3.5 p.m. He left! Why?", 3),
        ("de", "Er kam am 3. Oktober an. Z. B. war es gut. „Warum?“ fragte sie.", 3),
        (None, "One two. Three four.", 2),
        ("zh", "你好。你是谁？", 2),
        ("hi", "यह एक है। वह दो है।", 2),
        ("xx", "One two. Three four.", 2),  # rules of English for a language without its own
        ("en", "  ", 0),
        ("en", "plan B\u00a0. Then\u3000. It", 3),  # where the splitter would panic
    ],
)
def test_sentences(language, line, count):
    found = split_sentences(line, language)
    assert len(found) == count
    assert "".join("".join(found).split()) == "".join(line.split())


def test_split_long_line_without_spaces():
    """The splitter alone would need a minute for these."""
    assert split_sentences("你好吗。" * 50_000, "zh") == ["你好吗。"] * 50_000
