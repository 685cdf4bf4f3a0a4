"""Where a line may be cut: between its sentences, and where a translator would pause."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from transformer_jax.config.languages import WITHOUT_SPACES, short_code

__all__ = ["is_spaceless", "join_pieces", "split_long_line", "split_sentences"]

_SPACE = "[ \t\u3000]"
# Quotes and brackets that end with the sentence before them.
_CLOSING = "[\"'”’»›)\\]」』）】》〉]*"
# The gaps that may become ends of pieces, from the best to the worst: after a sentence, after a
# clause, between words. Chinese and Japanese write no space there.
_GAPS = (
    rf"[.!?…؟۔।॥።។]{_CLOSING}({_SPACE}+)"
    # A full stop of full width stands in numbers, too.
    rf"|(?:[。！？｡]|．(?!\d))+{_CLOSING}({_SPACE}*)",
    rf"(?<=[;:,)،؛])({_SPACE}+)|(?<! )({_SPACE}+)(?=[–—(])|(?<=[，、；：])({_SPACE}*)",
    rf"({_SPACE}+)",
)
# Then between characters as a reader sees them, and at last anywhere.
_LEVELS = len(_GAPS) + 2
# Scripts that are written without spaces: Thai, Lao, Tibetan, Myanmar, Khmer, Chinese, Japanese and
# their signs.
_SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)
_WIDE_SPACES = re.compile(r"[^\S \t\r\n]")
# Characters that are split into sentences at once: the splitter's time grows with the square of
# sentences without spaces.
_BLOCK = 10_000


def split_sentences(line: str, language: str | None) -> list[str]:
    """The sentences of a line; rules of English where `language` (ISO 639) is not known.

    ImportError where sentencex is not installed.

    >>> split_sentences("Dr. Smith left. Why?", "en")
    ['Dr. Smith left.', 'Why?']
    """
    from sentencex import segment

    blocks = (
        [line] if len(line) <= _BLOCK else split_long_line(line, lambda text: len(text) <= _BLOCK)
    )
    found = []
    for block in blocks:
        # The splitter ends in a panic behind spaces of more than one byte: it sees plain ones.
        plain = _WIDE_SPACES.sub(" ", block)
        start = 0
        for part in segment(short_code(language) if language else "en", plain):
            found.append(block[start : start + len(part)].strip())
            start += len(part)
    return [sentence for sentence in found if sentence]


def is_spaceless(text: str) -> bool:
    """Whether a text has characters of a script that is written without spaces.

    >>> is_spaceless("你好"), is_spaceless("hello")
    (True, False)
    """
    return bool(_SPACELESS.search(text))


def join_pieces(pieces: Sequence[str], language: str | None) -> str:
    """Pieces of a line one after the other, as the language writes them; where that is not known,
    with a space unless the script has none there.

    >>> join_pieces(["Wer?", "Ich."], "de"), join_pieces(["你好。", "谁？"], None)
    ('Wer? Ich.', '你好。谁？')
    """
    spaces = None if language is None else short_code(language) not in WITHOUT_SPACES
    joined = ""
    for piece in filter(None, pieces):
        ends = joined[-1:] + piece[0]
        joined += piece if not joined or (is_spaceless(ends) and not spaces) else f" {piece}"
    return joined


def split_long_line(line: str, fits: Callable[[str], bool]) -> list[str]:
    """Pieces of `line` that fit, each as long as the best places to cut allow.

    A single character is a piece even where it does not fit.

    >>> split_long_line("One two. Three, four five.", lambda text: len(text) <= 12)
    ['One two.', 'Three,', 'four five.']
    """
    return _cut(line.strip(), fits, 0)


def _cut(text: str, fits: Callable[[str], bool], level: int) -> list[str]:
    if level == _LEVELS or fits(text):
        return [text]
    gaps = [*_gaps(text, level), (len(text), len(text))]
    found: list[str] = []
    start = unit = 0
    while unit < len(gaps):
        last = _last_that_fits(unit, len(gaps), lambda i: fits(text[start : gaps[i][0]]))  # noqa: B023
        found += _cut(text[start : gaps[last][0]], fits, level + 1)
        start, unit = gaps[last][1], last + 1
    return found


def _gaps(text: str, level: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each gap inside a text, in order."""
    spans: Iterable[tuple[int, int]]
    if level < len(_GAPS):
        spans = (gap.span(gap.lastindex or 0) for gap in re.finditer(_GAPS[level], text))
    elif level == len(_GAPS):
        import regex  # only for lines that have no better place

        spans = ((seen.end(), seen.end()) for seen in regex.finditer(r"\X", text))
    else:
        spans = zip(range(1, len(text)), range(1, len(text)))
    yield from ((start, end) for start, end in spans if start > 0 and end < len(text))


def _last_that_fits(first: int, end: int, fits: Callable[[int], bool]) -> int:
    """The last number from `first` on that fits, looked for in steps that double, then halve.

    So a line of a megabyte is not measured again for each of its letters.
    """
    last, step = first, 1
    while last + step < end and fits(last + step):
        last, step = last + step, step * 2
    while step:
        if last + step < end and fits(last + step):
            last += step
        step //= 2
    return last
