"""Scores of parses by the rules of EVALB with COLLINS.prm (Sekine and Collins 1997)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version

from transformer_jax.evaluation.bleu import Score
from transformer_jax.parsing.trees import ROOT, Tree, preterminals, words

__all__ = ["BracketCounts", "count_brackets", "labelled_spans", "score_parses"]

# What COLLINS.prm deletes, and what it takes for one label.
PUNCTUATION = frozenset({",", ":", "``", "''", "."})
DELETED = PUNCTUATION | {ROOT, "-NONE-"}
EQUAL = {"PRT": "ADVP"}
SHORT = 40

Span = tuple[str, int, int]


@dataclass(frozen=True)
class BracketCounts:
    """Counts of one sentence or of many, which add up.

    Attributes:
        matched: Constituents of the parse that the gold tree has, too.
        parsed: Constituents of the parse.
        gold: Constituents of the gold tree.
        exact: Sentences all of whose constituents match.
        sentences: Sentences.
        tags: Words whose tag is that of the gold tree.
        words: Words, those that are deleted left out.
    """

    matched: int = 0
    parsed: int = 0
    gold: int = 0
    exact: int = 0
    sentences: int = 0
    tags: int = 0
    words: int = 0

    def __add__(self, other: "BracketCounts") -> "BracketCounts":
        return BracketCounts(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def precision(self) -> float:
        """Matched in 100 constituents of the parses."""
        return 100 * self.matched / max(self.parsed, 1)

    @property
    def recall(self) -> float:
        """Matched in 100 constituents of the gold trees."""
        return 100 * self.matched / max(self.gold, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 200 * matched / (parsed + gold)."""
        return 200 * self.matched / max(self.parsed + self.gold, 1)


def labelled_spans(tree: Tree, kept: Sequence[bool]) -> list[Span]:
    """List (label, first word, end) of the constituents that count, from left to right.

    Args:
        tree: A tree.
        kept: For each word, whether it counts; places are those among words that do.

    >>> from transformer_jax.parsing.trees import parse_brackets
    >>> tree = parse_brackets("(TOP (S (NP (PRP We)) (VP (VBD left)) (. .)))")
    >>> labelled_spans(tree, [True, True, False])
    [('S', 0, 2), ('NP', 0, 1), ('VP', 1, 2)]
    """
    before = [0]
    for each in kept:
        before.append(before[-1] + each)

    def walk(tree: Tree, first: int) -> Iterator[tuple[Span, int]]:
        place = first
        inside: list[tuple[Span, int]] = []
        for child in tree.children:
            if child.word is not None:
                place += 1
                continue
            found = list(walk(child, place))
            place = found[0][1]
            inside += found
        label = EQUAL.get(tree.label, tree.label)
        yield (label, before[first], before[place]), place
        yield from inside

    found = [span for span, _ in walk(tree, 0)] if tree.word is None else []
    return [span for span in found if span[0] not in DELETED and span[1] < span[2]]


def count_brackets(gold: Tree, parse: Tree | None) -> BracketCounts:
    """Compare a parse with the gold tree.

    Words that have a tag of punctuation in the gold tree are deleted from both.

    Args:
        gold: The gold tree.
        parse: The parse; None where there is none, or one of other words, counts against recall.
    """
    leaves = list(preterminals(gold))
    kept = [leaf.label not in DELETED for leaf in leaves]
    wanted = labelled_spans(gold, kept)
    if parse is None or words(parse) != words(gold):
        return BracketCounts(gold=len(wanted), sentences=1, words=sum(kept))
    found = labelled_spans(parse, kept)
    matched = sum((Counter(wanted) & Counter(found)).values())
    tags = sum(
        leaf.label == other.label
        for leaf, other, counts in zip(leaves, preterminals(parse), kept)
        if counts
    )
    exact = matched == len(wanted) == len(found)
    return BracketCounts(matched, len(found), len(wanted), exact, 1, tags, sum(kept))


def score_parses(gold: Sequence[Tree], parses: Sequence[Tree | None]) -> list[Score]:
    """Score parses: F1, precision, recall, exact match and tagging accuracy, all of 100, and the F1
    of sentences of 40 words at most.

    Args:
        gold: The gold trees.
        parses: A parse for each; None where there is none.

    >>> from transformer_jax.parsing.trees import parse_brackets
    >>> gold = parse_brackets("(TOP (S (NP (PRP We)) (VP (VBD left))))")
    >>> parse = parse_brackets("(TOP (S (NP (PRP We)) (ADVP (RB left))))")
    >>> [round(score.value, 1) for score in score_parses([gold], [parse])]
    [66.7, 66.7, 66.7, 0.0, 50.0, 66.7]
    """
    if len(gold) != len(parses):
        raise ValueError(f"{len(parses)} parses cannot be scored against {len(gold)} trees")
    total = short = BracketCounts()
    for tree, parse in zip(gold, parses):
        counts = count_brackets(tree, parse)
        total += counts
        if len(words(tree)) <= SHORT:
            short += counts
    rules = "deleted:TOP+-NONE-+punctuation by gold tags|equal:ADVP=PRT|missing:recall"
    signature = f"nsent:{total.sentences}|prm:COLLINS|{rules}|version:{version('transformer_jax')}"
    values = {
        "F1": total.f1,
        "precision": total.precision,
        "recall": total.recall,
        "exact match": 100 * total.exact / max(total.sentences, 1),
        "tagging accuracy": 100 * total.tags / max(total.words, 1),
        f"F1, up to {SHORT} words": short.f1,
    }
    return [Score(name, value, f"{name}|{signature}") for name, value in values.items()]
