"""Examples of the embedded corpus with their annotations, and the splits that they belong to."""

import functools
import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from transformer_jax.data.grammar.clauses import Clause, Predicate, Sentence
from transformer_jax.data.grammar.phrases import NounPhrase, PrepositionalPhrase, Pronoun, Relative
from transformer_jax.data.grammar.sampling import Sampler
from transformer_jax.data.grammar.words import Word, spans, text_of

__all__ = ["SPLITS", "Example", "examples", "split_of", "stream"]

SPLITS = ("train", "validation", "test", "compositional", "length", "distance")
# Longest English sentence, and farthest antecedent, of the first three splits (tokens).
MAX_LENGTH = 20
MAX_DISTANCE = 8
# One in this many pairs of adjective and noun, or verb and object, is held out of training.
HELD_OUT = 12
_WITH_PARTS = (Clause, Predicate, NounPhrase, PrepositionalPhrase, Pronoun, Relative)


@dataclass(frozen=True)
class Antecedent:
    """Token places of a pronoun and the noun that it stands for, in one language."""

    pronoun: int
    noun: int


@dataclass(frozen=True)
class Example:
    """A sentence pair and everything that is known of it.

    Attributes:
        english: The English sentence.
        german: The German sentence.
        alignment: Pairs (English token, German token) that say the same; tokens as split by spaces.
        antecedents: Of "it", in English and in German; empty where there is none.
        spans: (label, first token, end) of the English phrases, the whole sentence first.
        tags: The phenomena of German that the sentence shows.
    """

    english: str
    german: str
    alignment: tuple[tuple[int, int], ...]
    antecedents: tuple[Antecedent, Antecedent] | tuple[()]
    spans: tuple[tuple[str, int, int], ...]
    tags: frozenset[str]
    pairs: frozenset[tuple[str, str]]

    @property
    def length(self) -> int:
        return len(self.english.split())

    @property
    def distance(self) -> int:
        """English tokens from the antecedent to its pronoun; 0 where there is none."""
        return self.antecedents[0].pronoun - self.antecedents[0].noun if self.antecedents else 0


def stream(seed: int = 0) -> Iterator[tuple[str, Example]]:
    """Different examples without end, each with its split; equal seeds give equal streams.

    train, validation and test are one distribution and share no sentence. The others hold what
    training never shows: `compositional` pairs of words that are held out, `length` sentences
    that are longer, `distance` antecedents that are farther away.
    """
    sampler = Sampler(random.Random(seed))
    seen = set()
    while True:
        example = example_of(sampler.sentence())
        split = split_of(example)
        if split is not None and example.english not in seen:
            seen.add(example.english)
            yield split, example


def examples(split: str, count: int, seed: int = 0) -> Iterator[Example]:
    """The first `count` examples of a split in the stream of a seed.

    >>> [example] = examples("train", 1)
    >>> len(example.english.split()) == example.length
    True
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return itertools.islice((example for name, example in stream(seed) if name == split), count)


def split_of(example: Example) -> str | None:
    """The split that an example belongs to by its nature; None if it would mix two of them."""
    traits = [
        name
        for name, holds in (
            ("compositional", any(_is_held_out(pair) for pair in example.pairs)),
            ("length", example.length > MAX_LENGTH),
            ("distance", example.distance > MAX_DISTANCE),
        )
        if holds
    ]
    if traits:
        return traits[0] if len(traits) == 1 else None
    part = _hash(example.english) % 20
    return {0: "validation", 1: "test"}.get(part, "train")


def example_of(sentence: Sentence) -> Example:
    """A sentence in both languages with its annotations."""
    tags: set[str] = set()
    tree = sentence.english(set())
    english, english_tokens = text_of(list(tree.leaves()))
    german, german_tokens = text_of(sentence.german(tags))
    parts = list(_parts(sentence))
    pronouns = [
        (part.node, part.antecedent.node)
        for part in parts
        if isinstance(part, Pronoun) and part.antecedent is not None
    ]
    antecedents = tuple(
        Antecedent(_place(tokens, it), _place(tokens, noun))
        for it, noun in pronouns[:1]
        for tokens in (english_tokens, german_tokens)
    )
    return Example(
        english,
        german,
        _alignment(english_tokens, german_tokens),
        antecedents,  # type: ignore[arg-type]
        tuple(spans(tree)),
        frozenset(tags),
        frozenset(_word_pairs(parts)),
    )


def _alignment(english: list[Word], german: list[Word]) -> tuple[tuple[int, int], ...]:
    places = defaultdict(list)
    for j, word in enumerate(german):
        for node in word.nodes:
            places[node].append(j)
    return tuple(
        (i, j)
        for i, word in enumerate(english)
        for j in sorted({j for node in word.nodes for j in places[node]})
    )


def _place(tokens: list[Word], node: int) -> int:
    return next(i for i, token in enumerate(tokens) if node in token.nodes)


def _parts(value) -> Iterator:
    """All phrases and clauses inside a sentence; an antecedent is not inside its pronoun."""
    yield value
    if not isinstance(value, Pronoun):
        for part in vars(value).values():
            if isinstance(part, _WITH_PARTS):
                yield from _parts(part)


def _word_pairs(parts: list) -> Iterator[tuple[str, str]]:
    """Adjective and noun, verb and accusative object: what `compositional` holds out.

    An adjective goes with its noun before it and after "is" alike.
    """
    for part in parts:
        if isinstance(part, NounPhrase):
            for modifier in part.modifiers:
                yield modifier.adjective.english, part.noun.singular
        elif isinstance(part, Clause) and part.verb is not None:
            accusative = part.accusative
            thing = accusative.antecedent if isinstance(accusative, Pronoun) else accusative
            if thing is not None:
                yield part.verb.base, thing.noun.singular
        elif isinstance(part, Clause) and part.predicate is not None:
            subject = part.subject.antecedent if isinstance(part.subject, Pronoun) else part.subject
            if subject is not None:
                yield part.predicate.adjective.english, subject.noun.singular


@functools.cache
def _is_held_out(pair: tuple[str, str]) -> bool:
    return _hash(" ".join(pair)) % HELD_OUT == 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
