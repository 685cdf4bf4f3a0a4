"""Treebanks as text of a task: a sentence, and the symbols of its tree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformer_jax.data.tree_files import digest_trees
from transformer_jax.data.vocabulary_protocol import SPACE_SIGN
from transformer_jax.errors import UserError
from transformer_jax.parsing.linearization import ANY_TAG, linearize
from transformer_jax.parsing.trees import ROOT, Tree, TreeError, read_trees, words

__all__ = ["PhraseTrees", "Treebank", "sentence_of", "tree_of_spans"]


def sentence_of(words: Sequence[str]) -> str:
    """Join words to the sentence that a model reads.

    U+2581, which vocabularies take for a space, becomes "_", so that words can be counted.

    >>> sentence_of(["We", "left", "."])
    'We left .'
    """
    return " ".join(words).replace(SPACE_SIGN, "_")


@dataclass(frozen=True)
class Treebank:
    """The trees of a path as pairs of a sentence and its symbols, separated by spaces.

    Attributes:
        path: As `read_trees` takes it.
        order: One of `ORDERS`.
    """

    path: str
    order: str

    def trees(self) -> Iterator[Tree]:
        """Yield the trees, cleaned."""
        return read_trees(self.path)

    @cached_property
    def identity(self) -> str:
        return f"{digest_trees(self.path)} {self.order}"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return _pairs(self)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class PhraseTrees:
    """The English phrases of a split of the embedded corpus; each word has the tag XX.

    Attributes:
        split: A `data.datasets.DatasetSplit` of it.
        order: One of `ORDERS`.
    """

    split: Any
    order: str

    def trees(self) -> Iterator[Tree]:
        """Yield the trees."""
        for stored in self.split.examples():
            labels = stored["span_labels"].decode().split()
            spans = [(label, *map(int, at)) for label, at in zip(labels, stored["spans"])]
            yield tree_of_spans(stored["en"].decode().split(), spans)

    @property
    def identity(self) -> str:
        return f"{self.split.identity} {self.order}"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return _pairs(self)

    def __str__(self) -> str:
        return f"trees of {self.split}"


def _pairs(text: Treebank | PhraseTrees) -> Iterator[tuple[str, str]]:
    for number, tree in enumerate(text.trees(), 1):
        try:
            symbols = linearize(tree, text.order)
        except UserError as error:
            raise TreeError(f"{text}, tree {number}: {error}") from None
        yield sentence_of(words(tree)), " ".join(symbols)


def tree_of_spans(words: Sequence[str], spans: Sequence[tuple[str, int, int]]) -> Tree:
    """Make the tree of constituents that are given by their places; every word has the tag XX.

    Args:
        words: The words.
        spans: (label, first word, end) of each constituent, a larger one before those in it.

    >>> str(tree_of_spans(["We", "left"], [("S", 0, 2), ("NP", 0, 1)]))
    '(TOP (S (NP (XX We)) (XX left)))'
    """
    left = list(spans)

    def parts(first: int, end: int) -> tuple[Tree, ...]:
        found: list[Tree] = []
        while first < end:
            if left and left[0][1] == first and left[0][2] <= end:
                label, first, last = left.pop(0)
                found.append(Tree(label, parts(first, last)))
                first = last
            else:
                found.append(Tree(ANY_TAG, word=words[first]))
                first += 1
        return tuple(found)

    return Tree(ROOT, parts(0, len(words)))
