"""Phrase-structure trees, and the brackets of the Penn Treebank that they are written in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from transformer_jax.data.text import read_lines
from transformer_jax.data.tree_files import tree_files
from transformer_jax.errors import UserError

__all__ = [
    "Tree",
    "TreeError",
    "clean_tree",
    "indent_brackets",
    "parse_brackets",
    "preterminals",
    "read_trees",
    "spell",
    "words",
    "write_brackets",
]

# Deeper trees are no sentence's, and every function here calls itself once a level.
MAX_DEPTH = 150
ROOT = "TOP"
_ROOTS = ("", "TOP", "ROOT", "S1")
_TOKEN = re.compile(r"[()]|[^()\s]+")
_ESCAPES = {"(": "-LRB-", ")": "-RRB-"}


class TreeError(UserError):
    """Brackets that are no tree; the message names the file, the line and the column."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A constituent with its parts, or a word with its tag.

    Attributes:
        label: Label of the constituent, or tag of the word.
        children: The parts of a constituent; none of a word.
        word: The word, spelled as treebanks do (`spell`); None of a constituent.
    """

    label: str
    children: tuple["Tree", ...] = ()
    word: str | None = None

    def __str__(self) -> str:
        return write_brackets(self)


def spell(word: str) -> str:
    """Spell a word as treebanks do: brackets in it are -LRB- and -RRB-.

    >>> spell("("), spell("f(x)")
    ('-LRB-', 'f-LRB-x-RRB-')
    """
    return re.sub(r"[()]", lambda found: _ESCAPES[found[0]], word)


def preterminals(tree: Tree) -> Iterator[Tree]:
    """Yield the words of a tree with their tags, from left to right."""
    if tree.word is not None:
        yield tree
    for child in tree.children:
        yield from preterminals(child)


def words(tree: Tree) -> list[str]:
    """List the words of a tree, from left to right.

    >>> words(parse_brackets("(TOP (NP (DT the) (NN dog)))"))
    ['the', 'dog']
    """
    return [str(leaf.word) for leaf in preterminals(tree)]


def write_brackets(tree: Tree) -> str:
    """Write a tree on one line.

    >>> write_brackets(Tree("NP", (Tree("DT", word="the"), Tree("NN", word="dog"))))
    '(NP (DT the) (NN dog))'
    """
    if tree.word is not None:
        return f"({tree.label} {tree.word})"
    return f"({tree.label} {' '.join(map(write_brackets, tree.children))})"


def indent_brackets(tree: Tree, depth: int = 0) -> str:
    """Write a tree on several lines: constituents of words alone on one, others by their parts.

    Args:
        tree: The tree.
        depth: Levels above it.

    >>> print(indent_brackets(parse_brackets("(TOP (S (NP (PRP We)) (VP (VBD left)) (. .)))")))
    (TOP
      (S
        (NP (PRP We))
        (VP (VBD left))
        (. .)))
    """
    margin = "  " * depth
    if all(child.word is not None for child in tree.children):
        return margin + write_brackets(tree)
    parts = "\n".join(indent_brackets(child, depth + 1) for child in tree.children)
    return f"{margin}({tree.label}\n{parts})"


def parse_brackets(text: str, name: str = "the text") -> Tree:
    """Read one tree.

    Args:
        text: Its brackets, on one line or several.
        name: What messages call the text.

    Raises:
        TreeError: It is not exactly one tree.

    >>> parse_brackets("(NP (DT the)\\n  (NN dog))").children[1]
    Tree(label='NN', children=(), word='dog')
    """
    found = list(_trees(text.split("\n"), name))
    if len(found) != 1:
        raise TreeError(f"{name} holds {len(found)} trees, not one")
    return found[0]


def read_trees(path: str | PathLike, *, clean: bool = True) -> Iterator[Tree]:
    """Read the trees of a file, of all files .mrg in a folder and those below it, or of sections.

    Args:
        path: A file with one tree a line, or with trees of several lines, each of which begins on a
            line of its own; a folder; or sections of a folder of folders, as wsj/02-21 where wsj/02
            to wsj/21 are.
        clean: Whether to clean each tree (`clean_tree`); one of which nothing is left is left out.

    Yields:
        The trees, in the order of the lines and of the names of files.

    Raises:
        UserError: A file cannot be read, or as no trees, or there is none.
    """
    count = 0
    for file in tree_files(path):
        for tree in _trees(read_lines(file), str(file)):
            count += 1
            cleaned = clean_tree(tree) if clean else tree
            if cleaned is not None:
                yield cleaned
    if not count:
        what = "file .mrg with trees" if Path(path).is_dir() else "tree"
        raise TreeError(f"{path} holds no {what}: give a treebank in brackets")


@dataclass
class _Open:
    """A bracket that is not closed yet."""

    line: int
    column: int
    label: str | None = None
    children: list[Tree] | None = None
    word: str | None = None

    def closed(self, where: str) -> Tree:
        if self.children:
            return Tree(self.label or "", tuple(self.children))
        if self.word is None:
            raise TreeError(f"{where}: the bracket that is closed here holds no word: remove it")
        return Tree(self.label or "", word=self.word)


def _trees(lines, name: str) -> Iterator[Tree]:
    """Yield trees of lines, with one rule for all of them: a tree begins on a line of its own."""
    stack: list[_Open] = []
    ended = 0
    for number, line in enumerate(lines, 1):
        for match in _TOKEN.finditer(line):
            token, column = match[0], match.start() + 1
            where = f"{name}, line {number}, column {column}"
            if token == "(":
                if not stack and ended == number:
                    raise TreeError(f"{where}: a second tree on one line: put it on its own")
                if len(stack) == MAX_DEPTH:
                    raise TreeError(f"{where}: more than {MAX_DEPTH} brackets are open: no tree")
                if stack and stack[-1].word is not None:
                    raise TreeError(f"{where}: a bracket after the word {stack[-1].word!r:.80}")
                if stack:
                    stack[-1].children = stack[-1].children or []
                stack.append(_Open(number, column))
            elif not stack:
                shown = "a bracket is closed that was not opened" if token == ")" else (
                    f"{token!r:.80} stands outside of brackets"
                )  # fmt: skip
                raise TreeError(f"{where}: {shown}")
            elif token == ")":
                tree = stack.pop().closed(where)
                if stack:
                    stack[-1].children.append(tree)  # type: ignore[union-attr]
                else:
                    ended = number
                    yield tree
            else:
                _take(stack[-1], token, where)
    if stack:
        last = stack[-1]
        raise TreeError(
            f"{name}, line {last.line}, column {last.column}: this bracket is never closed"
        )


def _take(bracket: _Open, token: str, where: str) -> None:
    """Take a token as the label of a bracket, or as its word."""
    if bracket.children is not None:
        raise TreeError(f"{where}: {token!r:.80} stands beside brackets, and has no tag")
    if bracket.label is None:
        bracket.label = token
    elif bracket.word is None:
        bracket.word = token
    else:
        raise TreeError(f"{where}: {token!r:.80} is a second word in one bracket")


def clean_tree(tree: Tree) -> Tree | None:
    """Remove what parsers are not trained on: empty elements and constituents of nothing else,
    function tags and indices of labels. The root is called TOP, and is there.

    Args:
        tree: A tree as the treebank has it.

    Returns:
        The cleaned tree; None where nothing is left.

    >>> tree = "( (S (NP-SBJ-1 (PRP We)) (VP (VBD left) (NP (-NONE- *T*-2)))))"
    >>> str(clean_tree(parse_brackets(tree)))
    '(TOP (S (NP (PRP We)) (VP (VBD left))))'
    """
    found = _cleaned(tree)
    if found is None:
        return None
    if found.word is None and tree.label in _ROOTS:
        return Tree(ROOT, found.children)
    return Tree(ROOT, (found,))


def _cleaned(tree: Tree) -> Tree | None:
    if tree.word is not None:
        return None if tree.label == "-NONE-" else tree
    children = tuple(kept for child in tree.children if (kept := _cleaned(child)) is not None)
    return Tree(_without_function(tree.label), children) if children else None


def _without_function(label: str) -> str:
    """NP-SBJ-1 is NP, ADVP|PRT is ADVP, and -LRB- is itself.

    >>> [_without_function(label) for label in ("NP-SBJ-1", "NP=2", "-LRB-", "ADVP|PRT")]
    ['NP', 'NP', '-LRB-', 'ADVP']
    """
    return label if label.startswith("-") else re.split(r"[-=|]", label, maxsplit=1)[0]
