"""Treebanks as text of a task: a sentence, and the symbols of its tree."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_jax.data.text import digest
from transformer_jax.parsing.linearization import linearize
from transformer_jax.parsing.trees import ROOT, Tree, TreeError, read_trees, words

__all__ = ["PhraseTrees", "Treebank", "sentence_of", "tree_of_spans"]

# SentencePiece's own sign for a space, by which the words of a sentence are counted.
SPACE_SIGN = "\u2581"


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
        path: A file of brackets; a folder, of which all files .mrg are read; or sections of a
            folder of folders, as wsj/02-21 where wsj/02 to wsj/21 are.
        order: One of `ORDERS`.
    """

    path: str
    order: str

    @cached_property
    def _paths(self) -> list[Path]:
        path = Path(self.path)
        sections = re.fullmatch(r"(\d\d)-(\d\d)", path.name)
        if path.exists() or sections is None:
            return [path]
        found = [path.parent / f"{n:02}" for n in range(int(sections[1]), int(sections[2]) + 1)]
        for section in found or [path]:
            if not section.is_dir():
                raise TreeError(f"{path}: there is no folder {section}: give sections that exist")
        return found

    def trees(self) -> Iterator[Tree]:
        """Yield the trees, cleaned."""
        for path in self._paths:
            yield from read_trees(path)

    @cached_property
    def identity(self) -> str:
        files = [
            file
            for path in self._paths
            for file in (sorted(path.rglob("*.mrg")) if path.is_dir() else [path])
        ]
        digests = [digest(file) for file in files]
        if len(digests) == 1:
            return f"{digests[0]} {self.order}"
        return f"{hashlib.sha256(' '.join(digests).encode()).hexdigest()} {self.order}"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return _pairs(self.trees(), self.order)

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
        return _pairs(self.trees(), self.order)

    def __str__(self) -> str:
        return f"trees of {self.split}"


def _pairs(trees: Iterator[Tree], order: str) -> Iterator[tuple[str, str]]:
    for tree in trees:
        yield sentence_of(words(tree)), " ".join(linearize(tree, order))


def tree_of_spans(
    words: Sequence[str], spans: Sequence[tuple[str, int, int]], tag: str = "XX"
) -> Tree:
    """Make the tree of constituents that are given by their places.

    Args:
        words: The words.
        spans: (label, first word, end) of each constituent, a larger one before those in it.
        tag: Tag of every word.

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
                found.append(Tree(tag, word=words[first]))
                first += 1
        return tuple(found)

    return Tree(ROOT, parts(0, len(words)))
