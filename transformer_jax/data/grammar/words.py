"""What sentences are made of: words that know what they realise, and phrases of them.

Each thing said (a noun, an adjective, a verb, an article) is a node with a number; an English and
a German word that realise one node are aligned.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["COMMA", "Phrase", "Word", "new_node", "spans", "text_of", "words"]

_numbers = itertools.count(1)


def new_node() -> int:
    """A number for one thing said."""
    return next(_numbers)


class Word(NamedTuple):
    """One word and the nodes that it realises; a contraction realises two."""

    text: str
    nodes: frozenset[int]


# Attached to the word before it, unless the sentence ends there.
COMMA = Word(",", frozenset())


def words(text: str, *nodes: int) -> list[Word]:
    """The words of a text, all of the same nodes."""
    said = frozenset(nodes)
    return [Word(part, said) for part in text.split()]


@dataclass(frozen=True)
class Phrase:
    """A labelled phrase of the English side."""

    label: str
    children: tuple["Phrase | Word", ...]

    @classmethod
    def of(cls, label: str, *parts: "Phrase | Word | Iterable[Phrase | Word]") -> "Phrase":
        """A phrase of words, phrases and lists of them."""
        flat: list[Phrase | Word] = []
        for part in parts:
            flat += [part] if isinstance(part, Phrase | Word) else part
        return cls(label, tuple(flat))

    def leaves(self) -> Iterator[Word]:
        for child in self.children:
            if isinstance(child, Phrase):
                yield from child.leaves()
            else:
                yield child


def text_of(leaves: Sequence[Word]) -> tuple[str, list[Word]]:
    """(the sentence, its whitespace tokens): commas attached, capital first, full stop last."""
    tokens: list[Word] = []
    for word in leaves:
        if word is not COMMA:
            tokens.append(word)
        elif not tokens[-1].text.endswith(","):
            tokens[-1] = tokens[-1]._replace(text=tokens[-1].text + ",")
    first, last = tokens[0], tokens[-1]
    tokens[0] = first._replace(text=first.text[0].upper() + first.text[1:])
    tokens[-1] = tokens[-1]._replace(text=last.text.removesuffix(",") + ".")
    return " ".join(token.text for token in tokens), tokens


def spans(phrase: Phrase) -> list[tuple[str, int, int]]:
    """(label, first token, end) of every phrase; commas are no tokens of their own."""
    found: list[tuple[str, int, int]] = []

    def walk(part: Phrase | Word, start: int) -> int:
        if isinstance(part, Word):
            return start if part is COMMA else start + 1
        place = len(found)
        found.append((part.label, start, start))
        end = start
        for child in part.children:
            end = walk(child, end)
        found[place] = (part.label, start, end)
        return end

    walk(phrase, 0)
    return found
