"""Noun phrases, pronouns and prepositional phrases, in English and in German."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from transformer_jax.data.grammar import english, german
from transformer_jax.data.grammar.lexicon import Adjective, Noun
from transformer_jax.data.grammar.numbers import NUMBERS
from transformer_jax.data.grammar.words import COMMA, Phrase, Word, new_node, words

__all__ = ["Modifier", "Nominal", "NounPhrase", "PrepositionalPhrase", "Pronoun", "Relative"]

Tags = set[str]


@dataclass(frozen=True)
class Modifier:
    """An adjective before a noun."""

    adjective: Adjective
    comparative: bool = False
    node: int = field(default_factory=new_node)


class Spoken(Protocol):
    """A clause that one part is missing from, as a relative pronoun needs it (clauses.Clause)."""

    @property
    def accusative(self) -> Any: ...

    def english(self, tags: Tags, gap: str = "") -> Phrase: ...

    def german(self, order: Any, tags: Tags, gap: str = "") -> list[Word]: ...


@dataclass(frozen=True)
class Relative:
    """A relative clause; `role` is the case of its noun in it, gen for the owner of its subject."""

    clause: Spoken
    role: str
    node: int = field(default_factory=new_node)


@dataclass(frozen=True)
class NounPhrase:
    """A noun with its company.

    determiner: the, a, no, this, every, "" (none), or a possessive of english.POSSESSIVES.
    """

    noun: Noun
    determiner: str = "the"
    plural: bool = False
    number: int | None = None
    modifiers: tuple[Modifier, ...] = ()
    owner: NounPhrase | None = None
    place: PrepositionalPhrase | None = None
    relative: Relative | None = None
    node: int = field(default_factory=new_node)
    determiner_node: int = field(default_factory=new_node)
    number_node: int = field(default_factory=new_node)

    @property
    def person(self) -> str:
        """Whose verb form agrees: "er", or "wir" for any plural."""
        return "wir" if self.plural else "er"

    @property
    def gender(self) -> str:
        return "p" if self.plural else self.noun.gender

    def english(self, tags: Tags) -> Phrase:
        before: list[Word] = []
        if self.number is not None:
            before += words(NUMBERS[self.number][0], self.number_node)
        for place, modifier in enumerate(self.modifiers):
            before += [COMMA] if place else []
            entry = modifier.adjective
            form = entry.english_comparative if modifier.comparative else entry.english
            before += words(str(form), modifier.node)
        before += words(self.noun.plural if self.plural else self.noun.singular, self.node)
        determiner = self.determiner
        if determiner == "a":
            determiner = english.article(before[0].text)
        elif determiner == "this" and self.plural:
            determiner = "these"
        core = Phrase.of("NP", words(determiner, self.determiner_node), before)
        if self.owner is not None:  # in place of the article
            core = Phrase.of("NP", self._english_possessor(self.owner, tags), before)
        if self.place is not None:
            core = Phrase.of("NP", core, self.place.english(tags))
        if self.relative is not None:
            core = Phrase.of("NP", core, self._english_relative(self.relative, tags))
        return core

    def _english_possessor(self, owner: NounPhrase, tags: Tags) -> Phrase:
        """the man's, the students'; the ending says what the article says in German."""
        *first, last = owner.english(tags).leaves()
        ending = "'" if last.text.endswith("s") else "'s"
        said = Word(last.text + ending, last.nodes | {self.determiner_node})
        return Phrase.of("NP", first, said)

    def _english_relative(self, relative: Relative, tags: Tags) -> Phrase:
        if relative.role == "gen":
            pronoun = words("whose", relative.node)
        elif relative.role == "nom" and self.noun.kind == "human":
            pronoun = words("who", relative.node)
        elif relative.role == "dat" and relative.clause.accusative is not None:
            pronoun = words("to whom", relative.node)  # "gives the book to" would end in the air
        elif self.noun.kind == "human":
            pronoun = words("whom", relative.node)
        else:
            pronoun = words("that", relative.node)
        return Phrase.of("SBAR", pronoun, relative.clause.english(tags, gap=relative.role))

    def german(self, case: str, tags: Tags) -> list[Word]:
        gender = self.gender
        article, declension = self._german_determiner(case, tags)
        out = words(article, self.determiner_node)
        if self.number is not None:
            tags.add("number")
            out += words(NUMBERS[self.number][1], self.number_node)
        for place, modifier in enumerate(self.modifiers):
            out += [COMMA] if place else []
            tags.add(f"{declension}-adjective")
            if modifier.comparative:
                tags.add("comparative")
            entry, more = modifier.adjective, modifier.comparative
            form = german.adjective(entry, declension, case, gender, comparative=more)
            out += words(form, modifier.node)
        if self.noun.weak and (self.plural or case != "nom"):
            tags.add("weak-noun")
        if case == "dat" and self.plural:
            tags.add("dative-plural")
        out += words(german.noun(self.noun, case, self.plural), self.node)
        if self.owner is not None:
            tags.add("genitive")
            out += self.owner.german("gen", tags)
        if self.place is not None:
            out += self.place.german(tags)
        return out + self.german_relative(tags)

    def _german_determiner(self, case: str, tags: Tags) -> tuple[str, str]:
        """(the word, the declension that adjectives take after it)."""
        gender = self.gender
        if self.determiner == "":
            return "", "strong"
        if self.determiner == "the":
            return german.definite(case, gender), "weak"
        if self.determiner in ("this", "every"):
            stem = {"this": "dies", "every": "jed"}[self.determiner]
            return german.demonstrative(stem, case, gender), "weak"
        if self.determiner in english.POSSESSIVES:
            tags.add("possessive")
        elif self.determiner == "no":
            tags.add("kein")
        stem = {"a": "ein", "no": "kein", **english.POSSESSIVES}[self.determiner]
        return german.indefinite(stem, case, gender), "mixed"

    def german_relative(self, tags: Tags) -> list[Word]:
        """The relative clause between its commas; nothing where there is none."""
        relative = self.relative
        if relative is None:
            return []
        form = german.RELATIVE[relative.role][self.gender]
        tags.add("relative")
        if relative.role == "gen":
            tags.add("relative-dessen")
        if form == "denen":
            tags.add("relative-denen")
        clause = relative.clause.german("final", tags, gap=relative.role)
        return [COMMA, *words(form, relative.node), *clause, COMMA]


@dataclass(frozen=True)
class Pronoun:
    """I, we, he ("m"), she ("f"), they ("p"), or it ("n"), in German of its antecedent's gender."""

    kind: str
    antecedent: NounPhrase | None = None
    node: int = field(default_factory=new_node)

    @property
    def person(self) -> str:
        return {"I": "ich", "we": "wir", "p": "wir"}.get(self.kind, "er")

    def english(self, tags: Tags, *, subject: bool = False) -> Phrase:
        return Phrase.of("NP", words(english.PRONOUNS[self.kind][0 if subject else 1], self.node))

    def german(self, case: str, tags: Tags) -> list[Word]:
        kind = self.kind
        if self.antecedent is not None:
            tags.add("pronoun")
            kind = self.antecedent.gender
        return words(german.pronoun(kind, case), self.node)


Nominal = NounPhrase | Pronoun


@dataclass(frozen=True)
class PrepositionalPhrase:
    """A preposition with the case that it has here."""

    english_preposition: str
    preposition: str
    case: str
    object: NounPhrase
    node: int = field(default_factory=new_node)

    TWO_WAY = frozenset({"in", "auf", "unter", "hinter", "neben", "vor", "an"})

    def english(self, tags: Tags) -> Phrase:
        return Phrase.of(
            "PP", words(self.english_preposition, self.node), self.object.english(tags)
        )

    def german(self, tags: Tags) -> list[Word]:
        if self.preposition in self.TWO_WAY:
            tags.add("two-way-dative" if self.case == "dat" else "two-way-accusative")
        first, *rest = self.object.german(self.case, tags)
        joined = german.CONTRACTIONS.get((self.preposition, first.text))
        # A relative clause picks one thing out: then the article is stressed and stands alone.
        if joined is not None and self.object.determiner == "the" and not self.object.relative:
            tags.add("contraction")
            return [Word(joined, first.nodes | {self.node}), *rest]
        return [*words(self.preposition, self.node), first, *rest]
