"""Lines longer than a model reads, cut where a translator would pause."""

import re
from collections.abc import Callable

__all__ = ["cut"]

# From the best place to the worst: after a sentence, after a clause, between words, anywhere.
_PLACES = (r"(?<=[.!?…]) +", r"(?<=[;:,)]) +|(?<! ) +(?=[–—(])", r" +", r"(?<=.)(?=.)")


def cut(line: str, fits: Callable[[str], bool]) -> list[str]:
    """Pieces of `line` that fit, each as long as the best places to cut allow.

    A single character is a piece even where it does not fit.

    >>> cut("One two. Three, four five.", lambda text: len(text) <= 12)
    ['One two.', 'Three,', 'four five.']
    """
    return _cut(line.strip(), fits, 0)


def _cut(text: str, fits: Callable[[str], bool], place: int) -> list[str]:
    if place == len(_PLACES) or fits(text):
        return [text]
    gaps = [(gap.start(), gap.end()) for gap in re.finditer(_PLACES[place], text)]
    gaps.append((len(text), len(text)))
    found: list[str] = []
    start = unit = 0
    while unit < len(gaps):
        last = _last_that_fits(unit, len(gaps), lambda i: fits(text[start : gaps[i][0]]))  # noqa: B023
        found += _cut(text[start : gaps[last][0]], fits, place + 1)
        start, unit = gaps[last][1], last + 1
    return found


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
