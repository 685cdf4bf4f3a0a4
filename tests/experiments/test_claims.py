import math

import pytest

from experiments.claims import Claim, decide, paired_interval


def results(row, perplexities, bleus=None):
    bleus = bleus or [20.0] * len(perplexities)
    return [
        {"row": row, "seed": seed, "perplexity": p, "BLEU": b, "parameters": 10**6, "steps": 7}
        for seed, (p, b) in enumerate(zip(perplexities, bleus))
    ]


def test_intervals_against_scipy():
    from scipy import stats

    differences = [0.3, -0.1, 0.25, 0.4, 0.05]
    found = paired_interval(differences, 0.95)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.pairs == 5


def test_interval_verdicts():
    worse = Claim("", "A-heads-1", "perplexity", +1)
    same = Claim("", "E-learned", "perplexity", 0)
    base = [2.0, 2.2, 2.1, 1.9, 2.05]
    times = [1.10, 1.11, 1.09, 1.12, 1.10]
    row = [b * t for b, t in zip(base, times)]

    def verdict(claim, theirs, ours=base):
        return decide(claim, results("base", ours) + results(claim.row, theirs), 0.036)[1]

    assert verdict(worse, row) == "holds"
    assert verdict(worse, [b / t for b, t in zip(base, times)]) == "the opposite"
    assert verdict(worse, [b * t for b, t in zip(base, [1.3, 0.8, 1.1, 0.9, 1.0])]) == "undecided"
    assert verdict(same, [b * 1.001 for b in base]) == "holds"
    assert verdict(same, row) == "the opposite"
    assert verdict(same, [b * t for b, t in zip(base, [1.3, 0.8, 1.1, 0.9, 1.0])]) == "undecided"
    # Differences are paired: seeds that both have, and logarithms of perplexity.
    interval, _ = decide(worse, results("base", base[:3]) + results("A-heads-1", row), 0.036)
    assert interval.pairs == 3
    assert interval.mean == pytest.approx(sum(map(math.log, times[:3])) / 3)
    assert decide(worse, results("base", base[:1]) + results("A-heads-1", row), 0.036) is None
