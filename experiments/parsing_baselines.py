"""Parsers that learn by counting alone: what a trained one has to beat."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from transformer_jax.parsing import Tree
from transformer_jax.parsing.scores import PUNCTUATION
from transformer_jax.parsing.trees import ROOT, preterminals

__all__ = ["CountingParser"]


class CountingParser:
    """The most frequent tag of each word, under one of two trees.

    right-branching   each word begins a constituent that ends with the sentence, before its last
                      punctuation; the first is labelled as roots are most often, the others as
                      constituents that end there
    flat              the first of these constituents alone
    """

    def __init__(self, trees: Iterable[Tree]):
        """Count tags of words, and labels of constituents."""
        tags: defaultdict[str, Counter[str]] = defaultdict(Counter)
        every: Counter[str] = Counter()
        roots: Counter[str] = Counter()
        lasts: Counter[str] = Counter()
        for tree in trees:
            for leaf in preterminals(tree):
                tags[str(leaf.word)][leaf.label] += 1
                every[leaf.label] += 1
            roots.update(child.label for child in tree.children if child.word is None)
            lasts.update(_last_labels(tree))
        self._tags = {word: found.most_common(1)[0][0] for word, found in tags.items()}
        self._tag = every.most_common(1)[0][0]
        self._root, self._label = roots.most_common(1)[0][0], lasts.most_common(1)[0][0]

    def parse(self, sentence: Sequence[str], shape: str) -> Tree:
        """Make the tree of a sentence, right-branching or flat."""
        leaves = [Tree(self._tags.get(word, self._tag), word=word) for word in sentence]
        end = len(leaves)
        while end > 1 and leaves[end - 1].label in PUNCTUATION:
            end -= 1
        inside: tuple[Tree, ...] = tuple(leaves[:end])
        if shape == "right-branching":
            inside = (leaves[end - 1],)
            for leaf in reversed(leaves[: end - 1]):
                inside = (leaf, Tree(self._label, inside))
        return Tree(ROOT, (Tree(self._root, (*inside, *leaves[end:])),))


def _last_labels(tree: Tree) -> Iterable[str]:
    """Labels of constituents that end with a sentence, below its root's children."""
    for child in tree.children:
        place = child
        while place.children:
            inside = [each for each in place.children if each.label not in PUNCTUATION]
            if not inside or not inside[-1].children:
                break
            place = inside[-1]
            yield place.label
