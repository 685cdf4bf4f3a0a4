"""Trees as sequences of symbols, and back; the words stand apart.

tensor2tensor  a constituent opens with its label and closes with /LABEL, a word is its tag; TOP is
               left out, as everything is in it
vinyals        the same with XX for every tag (Vinyals et al. 2015)
in-order       a constituent's label follows its first part (Liu and Zhang 2017; better than the
               others in arXiv 2005.13334)
"""

import itertools
from collections.abc import Iterator, Sequence

from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.parsing.trees import ROOT, Tree, preterminals, words

__all__ = ["ORDERS", "delinearize", "linearize"]

ORDERS = ("tensor2tensor", "vinyals", "in-order")
ANY_TAG = "XX"


def linearize(tree: Tree, order: str = "tensor2tensor") -> list[str]:
    """Write a tree as symbols.

    Args:
        tree: A cleaned tree, whose root is TOP.
        order: One of `ORDERS`.

    Returns:
        The symbols, one for each word and two for each constituent but the root.

    Raises:
        UserError: The tree cannot be told from another one by its symbols, as one whose label is
            also a tag in it.

    >>> from transformer_jax.parsing.trees import parse_brackets
    >>> tree = parse_brackets("(TOP (S (NP (PRP We)) (VP (VBD left))))")
    >>> " ".join(linearize(tree))
    'S NP PRP /NP VP VBD /VP /S'
    >>> " ".join(linearize(tree, "vinyals"))
    'S NP XX /NP VP XX /VP /S'
    >>> " ".join(linearize(tree, "in-order"))
    'PRP NP /NP S VBD VP /VP /S'
    """
    _check(order)
    if tree.label != ROOT or not tree.children:
        raise UserError(f"a tree whose root is {tree.label!r}, not {ROOT}: clean it first")
    symbols = [symbol for child in tree.children for symbol in _symbols(child, order)]
    tags = [leaf.label for leaf in preterminals(tree)]
    try:
        is_told_apart = delinearize(symbols, words(tree), order, tags) == tree
    except UserError:
        is_told_apart = False
    if not is_told_apart:
        raise UserError(f"{tree!s:.200} uses a label as a tag, too, or as /LABEL: rename it")
    return symbols


def _symbols(tree: Tree, order: str) -> Iterator[str]:
    if tree.word is not None:
        yield ANY_TAG if order == "vinyals" else tree.label
        return
    first, *rest = tree.children
    if order == "in-order":
        yield from _symbols(first, order)
    yield tree.label
    for child in rest if order == "in-order" else tree.children:
        yield from _symbols(child, order)
    yield f"/{tree.label}"


def delinearize(
    symbols: Sequence[str],
    words: Sequence[str],
    order: str = "tensor2tensor",
    tags: Sequence[str] | None = None,
) -> Tree:
    """Make the tree of symbols and words: the inverse of `linearize`.

    Args:
        symbols: The symbols.
        words: The words.
        order: One of `ORDERS`.
        tags: Tag of each word, for vinyals; without them it is XX.

    Raises:
        UserError: The symbols are no tree over these words.

    >>> str(delinearize("PRP NP /NP S VBD VP /VP /S".split(), ["We", "left"], "in-order"))
    '(TOP (S (NP (PRP We)) (VP (VBD left))))'
    """
    _check(order)
    if tags is not None and len(tags) != len(words):
        raise UserError(f"{len(tags)} tags for {len(words)} words: give one for each")
    # From right to left, so that a label is known by its closing symbol. Each frame holds the
    # label of an open constituent and its parts, the last one first; the first frame is the root.
    frames: list[tuple[str, list[Tree]]] = [(ROOT, [])]
    left = list(zip(words, tags or itertools.repeat(None)))
    # In order, frames whose label was read: the next part, their first one, closes them.
    labelled: list[int] = []

    def close() -> None:
        label, parts = frames.pop()
        frames[-1][1].append(Tree(label, tuple(reversed(parts))))

    def close_labelled() -> None:
        while labelled and labelled[-1] == len(frames):
            labelled.pop()
            close()

    for place in range(len(symbols) - 1, -1, -1):
        symbol = symbols[place]
        label, parts = frames[-1]
        is_root = len(frames) == 1
        if len(symbol) > 1 and symbol.startswith("/"):
            frames.append((symbol[1:], []))
        elif order == "in-order" and symbol == label and not is_root and (
            not labelled or labelled[-1] != len(frames)
        ):  # fmt: skip
            labelled.append(len(frames))
        elif order != "in-order" and symbol == label and not is_root and parts:
            close()
        elif not left:
            raise UserError(
                f"symbol {place + 1}, {symbol!r:.80}, has no word: there are {len(words)}"
            )
        else:
            word, tag = left.pop()
            parts.append(Tree(symbol if tag is None or order != "vinyals" else tag, word=word))
            close_labelled()
    if len(frames) > 1:
        raise UserError(f"/{frames[-1][0]} closes a constituent that is not opened")
    if left:
        raise UserError(f"{len(words)} words, but the symbols are for {len(words) - len(left)}")
    if not frames[0][1]:
        raise UserError("no symbols: a tree has a word")
    return Tree(ROOT, tuple(reversed(frames[0][1])))


def _check(order: str) -> None:
    if order not in ORDERS:
        raise UserError(f"order {order!r} is unknown; {did_you_mean(order, ORDERS)}")
