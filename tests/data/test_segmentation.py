import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.segmentation import cut

LINES = st.text(alphabet="ab .,;!?\u2014(", max_size=80).map(str.strip)


@given(LINES, st.integers(1, 12))
def test_pieces_fit_and_lose_nothing(line, limit):
    pieces = cut(line, lambda text: len(text) <= limit)
    assert all(len(piece) <= limit for piece in pieces)
    assert "".join(pieces).replace(" ", "") == line.replace(" ", "")


@pytest.mark.parametrize(
    "line, limit, pieces",
    [
        ("All of it.", 10, ["All of it."]),
        ("One. Two. Three.", 9, ["One. Two.", "Three."]),  # as many sentences as fit
        ("When it rains, we stay (at home).", 16, ["When it rains,", "we stay", "(at home)."]),
        ("a b c d e", 3, ["a b", "c d", "e"]),
        ("One. abcdef, g", 4, ["One.", "abcd", "ef,", "g"]),  # the worst place only where it must
        ("", 5, [""]),
    ],
)
def test_where_lines_are_cut(line, limit, pieces):
    assert cut(line, lambda text: len(text) <= limit) == pieces


def test_a_megabyte_is_measured_a_few_times_over():
    measured = 0

    def fits(text):
        nonlocal measured
        measured += len(text)
        return len(text) <= 256

    assert len(cut("x" * 1_000_000, fits)) == 3907
    assert measured < 20 * 1_000_000
    assert cut("a" + " " * 1_000_000 + "b", lambda text: len(text) <= 2) == ["a", "b"]
