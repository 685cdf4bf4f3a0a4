"""Scores of parses beside PYEVALB, where its rules are the same."""

import itertools
import random

import pytest

from transformer_jax.parsing.scores import count_brackets
from transformer_jax.parsing.trees import Tree

pytest.importorskip("PYEVALB")
from PYEVALB import parser, scorer


@pytest.mark.parity
def test_scores_are_those_of_pyevalb():
    """Random trees over the same words and tags.

    It compares sets, so no label stands twice over the same words, and it counts the outermost
    bracket, so TOP is left out.
    """
    rng = random.Random(0)

    def tree(leaves):
        def grow(first, end, depth):
            if end - first == 1 and (depth > 3 or rng.random() < 0.5):
                return leaves[first]
            cut = sorted(
                rng.sample(range(first + 1, end), min(end - first - 1, rng.choice([1, 2])))
            )
            places = [first, *cut, end]
            parts = tuple(grow(a, b, depth + 1) for a, b in itertools.pairwise(places))
            return Tree(f"{rng.choice(['NP', 'VP'])}{depth}", parts)

        found = grow(0, len(leaves), 0)
        return Tree("TOP", (found if found.word is None else Tree("S", (found,)),))

    for _ in range(200):
        leaves = [
            Tree(rng.choice(["NN", "DT", "VB"]), word=f"w{n}") for n in range(rng.randint(2, 9))
        ]
        gold, parse = tree(leaves), tree(leaves)
        theirs = scorer.Scorer().score_trees(
            *(parser.create_from_bracket_string(str(each.children[0])) for each in (gold, parse))
        )
        ours = count_brackets(gold, parse)
        assert ours.precision == pytest.approx(100 * theirs.prec)
        assert ours.recall == pytest.approx(100 * theirs.recall)
