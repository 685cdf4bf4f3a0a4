"""Claims about rows of a table, and what paired seeds say of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

__all__ = ["Claim", "Interval", "comparable", "decide", "mean_of", "paired_interval", "paired_rows"]


class Claim(NamedTuple):
    """An observation as a difference of a row from base.

    measure  "perplexity" (its logarithm) or "BLEU"
    sign     +1: the row has more than base, -1: less, 0: the same within a margin
    """

    observation: str
    row: str
    measure: str
    sign: int


class Interval(NamedTuple):
    """Mean and confidence interval of paired differences from base."""

    mean: float
    low: float
    high: float
    pairs: int


def paired_interval(differences: Sequence[float], confidence: float) -> Interval:
    """Student's t interval of the mean of paired differences.

    >>> [round(x, 3) for x in paired_interval([1.0, 2.0, 3.0], 0.95)]
    [2.0, -0.484, 4.484, 3]
    """
    count = len(differences)
    mean = sum(differences) / count
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def comparable(found: Mapping, measure: str) -> float:
    """A measure of a result as it is compared: a perplexity by its logarithm.

    >>> comparable({"perplexity": 1.0, "BLEU": 30.0}, "perplexity")
    0.0
    """
    return math.log(found[measure]) if measure == "perplexity" else found[measure]


def mean_of(found: Sequence[Mapping], measure: str) -> float:
    """The mean of a measure of several results.

    >>> mean_of([{"BLEU": 30.0}, {"BLEU": 31.0}], "BLEU")
    30.5
    """
    return sum(each[measure] for each in found) / len(found)


def paired_rows(
    found: Mapping[str, Sequence[Mapping]], base: str, measures: Iterable[str]
) -> list[list[str | float]]:
    """The differences of each row from a base, with their 95% intervals.

    Args:
        found: Row -> results, one for each seed, in the same order of seeds for all.
        base: The row from which the others differ.
        measures: Names of what is compared.

    Returns:
        Row, measure, mean, low, high and number of pairs, as rows of a table; none where there are
        fewer than two seeds.
    """
    rows: list[list[str | float]] = []
    for row, results in found.items():
        for measure in measures if row != base and len(results) > 1 else ():
            differences = [
                comparable(a, measure) - comparable(b, measure)
                for a, b in zip(results, found[base], strict=True)
            ]
            name = "ln perplexity" if measure == "perplexity" else measure
            rows.append([row, name, *paired_interval(differences, 0.95)])
    return rows


def decide(claim: Claim, found: Iterable[dict], margin: float) -> tuple[Interval, str] | None:
    """The interval of a claim's difference and what it says; None with fewer than two pairs.

    A difference is shown where its 95% interval leaves out zero. Two one-sided tests at 5% show
    equality: the 90% interval lies within the margin.
    """
    values: dict[str, dict[int, float]] = {}
    for result in found:
        value = comparable(result, claim.measure)
        values.setdefault(result["row"], {})[result["seed"]] = value
    row, base = values.get(claim.row, {}), values.get("base", {})
    differences = [row[seed] - base[seed] for seed in sorted(row.keys() & base.keys())]
    if len(differences) < 2:
        return None
    if claim.sign == 0:
        interval = paired_interval(differences, 0.90)
        if interval.low > -margin and interval.high < margin:
            return interval, "holds"
        apart = interval.low > margin or interval.high < -margin
        return interval, "the opposite" if apart else "undecided"
    interval = paired_interval(differences, 0.95)
    if interval.low <= 0 <= interval.high:
        return interval, "undecided"
    return interval, "holds" if interval.mean * claim.sign > 0 else "the opposite"
