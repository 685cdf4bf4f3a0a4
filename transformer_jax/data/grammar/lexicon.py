"""The words of the embedded corpus, read from lexicon.tsv."""

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

__all__ = [
    "Adjective",
    "Frame",
    "Gender",
    "Lexicon",
    "Noun",
    "Verb",
    "irregular_form",
    "load_lexicon",
]

Gender = Literal["m", "f", "n"]
Frame = Literal["intransitive", "accusative", "dative", "give", "rest", "motion", "put", "that"]


@dataclass(frozen=True)
class Noun:
    """Principal parts of a noun; `kind` is its class: human, animal, food, text, thing, ..."""

    singular: str
    plural: str
    german: str
    gender: Gender
    genitive: str
    german_plural: str
    kind: str

    @property
    def weak(self) -> bool:
        """Masculine nouns that end in -n everywhere but in the nominative singular."""
        return self.gender == "m" and self.genitive.endswith("n")


@dataclass(frozen=True)
class Adjective:
    """Positive and comparative; `stem` takes the endings; colours have no comparative."""

    english: str
    english_comparative: str | None
    german: str
    stem: str
    german_comparative: str | None
    kinds: frozenset[str]


@dataclass(frozen=True)
class Verb:
    """Principal parts of both languages; `particle` is the prefix of a separable verb, or ""."""

    base: str
    third: str
    past: str
    participle: str
    particle: str
    infinitive: str
    german_third: str
    german_past: str
    german_participle: str
    auxiliary: Literal["haben", "sein"]
    frame: Frame
    subjects: frozenset[str]
    objects: frozenset[str]


@dataclass(frozen=True)
class Lexicon:
    """All entries of lexicon.tsv, in its order."""

    nouns: tuple[Noun, ...]
    adjectives: tuple[Adjective, ...]
    verbs: tuple[Verb, ...]


@functools.cache
def load_lexicon() -> Lexicon:
    """The lexicon that comes with the package.

    >>> lexicon = load_lexicon()
    >>> next(noun for noun in lexicon.nouns if noun.weak).german
    'Junge'
    """
    text = (resources.files(__package__) / "lexicon.tsv").read_text(encoding="utf-8")
    nouns, adjectives, verbs = [], [], []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        kind, *fields = line.split("\t")
        row: list[Any] = [*fields]
        if kind == "noun":
            nouns.append(Noun(*row))
        elif kind == "adjective":
            comparatives = {1: _maybe(fields[1]), 4: _maybe(fields[4]), 5: _classes(fields[5])}
            adjectives.append(Adjective(*(comparatives.get(i, x) for i, x in enumerate(row))))
        else:
            particle, _, infinitive = fields[4].rpartition("|")
            row[4:5] = particle, infinitive
            row[-2:] = _classes(fields[-2]), _classes(fields[-1])
            verbs.append(Verb(*row))
    return Lexicon(tuple(nouns), tuple(adjectives), tuple(verbs))


def irregular_form(forms: tuple[str, ...], tense: str, person: str) -> str:
    """One of (present ich, er, wir; past ich and er, wir), as both languages list auxiliaries.

    >>> irregular_form(("am", "is", "are", "was", "were"), "past", "er")
    'was'
    """
    people = ("ich", "er", "wir").index(person)
    return forms[people if tense == "present" else 3 + (person == "wir")]


def _maybe(field: str) -> str | None:
    return None if field == "-" else field


def _classes(field: str) -> frozenset[str]:
    return frozenset(field.split()) - {"-"}
