"""Clauses and sentences: the order of words in English, and the three orders of German.

main      the finite verb second: Der Mann kauft heute ein Buch.
inverted  the finite verb first, after whatever else comes first: Heute | kauft der Mann ein Buch.
final     the finite verb last: ..., weil der Mann heute ein Buch kauft.
"""

from dataclasses import dataclass, field
from typing import Literal

from transformer_jax.data.grammar import english, german
from transformer_jax.data.grammar.lexicon import Adjective, Verb
from transformer_jax.data.grammar.phrases import (
    Nominal,
    NounPhrase,
    PrepositionalPhrase,
    Pronoun,
    Tags,
)
from transformer_jax.data.grammar.words import COMMA, Phrase, Word, new_node, words

__all__ = [
    "Adverb",
    "Clause",
    "Coordination",
    "Predicate",
    "Sentence",
    "Simple",
    "Subordination",
    "could_be_object",
    "may_follow_before",
]

Order = Literal["main", "inverted", "final"]
_MODALS = {"can": "können", "must": "müssen", "want to": "wollen"}
_DEGREES = {"very": "sehr", "too": "zu", "": ""}
# Particles that stand behind a pronoun: picks it up, but looks for it.
_MOVING = {"up", "away", "along", "back"}


@dataclass(frozen=True)
class Adverb:
    """Frequency (before the English verb) or time (at the end of the English clause)."""

    english: str
    german: str
    kind: Literal["frequency", "time"]
    node: int = field(default_factory=new_node)


@dataclass(frozen=True)
class Predicate:
    """An adjective after "be". degree: "", very, too, more (than something), as (as something)."""

    adjective: Adjective
    degree: str = ""
    standard: NounPhrase | None = None
    node: int = field(default_factory=new_node)
    degree_node: int = field(default_factory=new_node)

    def english(self, tags: Tags) -> Phrase:
        entry, links = self.adjective, (self.degree_node,)
        if self.standard is None:
            return Phrase.of("ADJP", words(self.degree, *links), words(entry.english, self.node))
        standard = self.standard.english(tags)
        if self.degree == "more":
            more = words(str(entry.english_comparative), self.node)
            return Phrase.of("ADJP", more, Phrase.of("PP", words("than", *links), standard))
        equal = [*words("as", *links), *words(entry.english, self.node)]
        return Phrase.of("ADJP", equal, Phrase.of("PP", words("as", *links), standard))

    def german(self, tags: Tags) -> tuple[list[Word], list[Word]]:
        """(the adjective, what it is compared with)."""
        entry, links = self.adjective, (self.degree_node,)
        if self.standard is None:
            return [*words(_DEGREES[self.degree], *links), *words(entry.german, self.node)], []
        standard = self.standard.german("nom", tags)
        if self.degree == "more":
            tags.add("comparative")
            more = words(str(entry.german_comparative), self.node)
            return more, [*words("als", *links), *standard]
        tags.add("equative")
        equal = [*words("so", *links), *words(entry.german, self.node)]
        return equal, [*words("wie", *links), *standard]


@dataclass(frozen=True)
class Clause:
    """A subject and what is said of it; `verb` None is "be" with a predicate.

    In a relative clause the part that the relative pronoun stands for (`gap`: nom, acc or dat) is
    there but not spoken. A clause with a modal is not negated: "cannot", "need not" and "was not
    able to" would each be another rule.
    """

    subject: Nominal
    verb: Verb | None
    tense: Literal["present", "past", "perfect"] = "present"
    modal: str | None = None
    negated: bool = False
    accusative: Nominal | None = None
    dative: Nominal | None = None
    place: PrepositionalPhrase | None = None
    adverb: Adverb | None = None
    fronted: bool = False
    predicate: Predicate | None = None
    complement: "Clause | None" = None
    node: int = field(default_factory=new_node)
    auxiliary_node: int = field(default_factory=new_node)
    not_node: int = field(default_factory=new_node)
    that_node: int = field(default_factory=new_node)

    def __post_init__(self):
        if self.modal is not None and self.negated:
            raise ValueError(f"{self.modal} is not negated here")

    # English ------------------------------------------------------------------------------

    def english(self, tags: Tags, gap: str = "") -> Phrase:
        parts: list[Phrase | Word] = []
        adverb = self.adverb
        said = [] if adverb is None else [Phrase.of("ADVP", words(adverb.english, adverb.node))]
        if self.fronted:
            parts += said
        if gap != "nom":
            parts.append(self._english_subject(tags))
        frequency = said if adverb is not None and adverb.kind == "frequency" else []
        late = said if not frequency and not self.fronted else []
        verb, rest = self._english_verb(frequency), self._english_rest(tags, gap)
        moves = isinstance(verb[-1], Word) and verb[-1].text in _MOVING
        if moves and gap != "acc" and isinstance(self.accusative, Pronoun):
            rest.insert(1, verb.pop())
        parts.append(Phrase.of("VP", verb, rest, late))
        return Phrase.of("S", parts)

    def _english_subject(self, tags):
        if isinstance(self.subject, Pronoun):
            return self.subject.english(tags, subject=True)
        return self.subject.english(tags)

    def _english_verb(self, frequency: list[Phrase]) -> list[Phrase | Word]:
        person, aux = self.subject.person, self.auxiliary_node
        negation = words("not", self.not_node) if self.negated else []
        if self.verb is None:
            finite = words(english.finite("be", self.tense, person), self.node)
            return [*finite, *negation, *frequency]
        base = words(self.verb.base, self.node)
        if self.modal is not None:
            form = english.finite(self.modal, self.tense, person)
            return [*words(form, aux), *frequency, *base]
        if self.tense == "perfect":
            have = words(english.finite("have", "present", person), aux)
            return [*have, *negation, *frequency, *words(self.verb.participle, self.node)]
        if negation:
            return [
                *words(english.finite("do", self.tense, person), self.node),
                *negation,
                *frequency,
                *base,
            ]
        return [*frequency, *words(english.finite(self.verb, self.tense, person), self.node)]

    def _english_rest(self, tags: Tags, gap: str) -> list[Phrase | Word]:
        out: list[Phrase | Word] = []
        accusative = None if gap == "acc" else self.accusative
        dative = None if gap == "dat" else self.dative
        if self.predicate is not None:
            out.append(self.predicate.english(tags))
        if self.accusative is not None and self.dative is not None:
            said = [x.english(tags) for x in (dative, accusative) if x is not None]
            if dative is not None and (gap == "acc" or isinstance(accusative, Pronoun)):
                said = [*said[1:], Phrase.of("PP", words("to"), said[0])]
            out += said
        else:
            out += [x.english(tags) for x in (dative, accusative) if x is not None]
        if self.place is not None:
            out.append(self.place.english(tags))
        if self.complement is not None:
            that = words("that", self.that_node)
            out.append(Phrase.of("SBAR", that, self.complement.english(tags)))
        return out

    # German -------------------------------------------------------------------------------

    def german(self, order: Order, tags: Tags, gap: str = "") -> list[Word]:
        finite, tail = self._german_verb(order, tags)
        subject = [] if gap == "nom" else self.subject.german("nom", tags)
        adverb = self.adverb
        said = [] if adverb is None else words(adverb.german, adverb.node)
        if said and said[0].text == "am":
            tags.add("contraction")
        pronouns, middle, after = self._german_middle([] if self.fronted else said, tags, gap)
        after += self._german_complement(tags)
        if order == "main" and not self.fronted:
            return [*subject, *finite, *pronouns, *middle, *tail, *after]
        # A pronoun goes before a subject that is news or long, and straight after an inverted verb:
        # weil ihn eine Frau sah; folgt mir der Mann. "sie", "es" would be taken for the subject.
        moved = isinstance(self.subject, NounPhrase) and (
            order == "inverted"
            or self.subject.determiner in ("a", "no", "")
            or self.subject.relative is not None
        )
        moved = moved and not {"sie", "es"} & {word.text for word in pronouns}
        both = [*pronouns, *subject] if moved else [*subject, *pronouns]
        if order == "final":
            tags.add("verb-final")
            return [*both, *middle, *tail, *finite, *after]
        tags.add("inversion")
        first = said if self.fronted else []
        if tail and not pronouns and not middle and isinstance(self.subject, NounPhrase):
            # So that the end of the clause does not wait: Gestern stand die Frau auf, die lachte.
            length = len(self.subject.german_relative(tags))
            after = [*both[len(both) - length :], *after]
            both = both[: len(both) - length]
        return [*first, *finite, *both, *middle, *tail, *after]

    def _german_verb(self, order: Order, tags: Tags) -> tuple[list[Word], list[Word]]:
        """(the finite verb, what stands at the end of the clause)."""
        person, aux = self.subject.person, self.auxiliary_node
        verb = self.verb
        if verb is not None and verb.particle:
            tags.add("separable")
        if verb is None:
            return words(german.finite("sein", self.tense, person), self.node), []
        if self.modal is not None:
            tags.add("modal")
            form = german.finite(_MODALS[self.modal], self.tense, person)
            return words(form, aux), words(german.infinitive(verb), self.node)
        if self.tense == "perfect":
            tags.add(f"perfect-{verb.auxiliary}")
            form = german.finite(verb.auxiliary, "present", person)
            return words(form, aux), words(german.participle(verb), self.node)
        form = german.finite(verb, self.tense, person)
        if not verb.particle:
            return words(form, self.node), []
        if order == "final":
            return words(verb.particle + form, self.node), []
        return words(form, self.node), words(verb.particle, self.node)

    def _german_middle(
        self, adverb: list[Word], tags: Tags, gap: str
    ) -> tuple[list[Word], list[Word], list[Word]]:
        """(pronouns; adverb, dative, accusative, nicht, place, predicate; what comes last).

        A relative clause that would end the middle, and what something is compared with, is better
        said after the words that end the clause: Er gab das Buch zurück, das er stahl.
        """
        objects: list[tuple[Nominal, str]] = [
            (x, case)
            for x, case in ((self.accusative, "acc"), (self.dative, "dat"))
            if x is not None and case != gap
        ]
        if self.dative is not None:
            tags.add("dative-object" if self.accusative is None else "ditransitive")
        pronouns = [
            w for x, case in objects if isinstance(x, Pronoun) for w in x.german(case, tags)
        ]
        nouns = [
            (x, x.german(case, tags)) for x, case in reversed(objects) if isinstance(x, NounPhrase)
        ]
        # What is known goes before "oft": Er gibt das Buch oft zurück; er liest oft ein Buch; and
        # of two objects the first: Er zeigt dem Kind oft das Buch.
        before = 0
        if self.adverb is not None and self.adverb.kind == "frequency" and nouns:
            first = nouns[0][0]
            known = first.determiner not in ("a", "no", "every", "") and not first.relative
            before = int(known and (len(nouns) == 2 or len(objects) == 1))
        spoken = [said for _, said in nouns]
        out = [w for said in (*spoken[:before], adverb, *spoken[before:]) for w in said]
        after: list[Word] = []
        last = objects[0][0] if objects else None
        moves = not (self.place or self.predicate)
        if moves and isinstance(last, NounPhrase) and last.relative is not None:
            length = len(last.german_relative(tags))
            out, after = out[:-length], out[-length:]
        if self.negated:
            tags.add("nicht")
            out += words("nicht", self.not_node)
        if self.place is not None:
            out += self.place.german(tags)
        if self.predicate is not None:
            adjective, standard = self.predicate.german(tags)
            out, after = [*out, *adjective], standard
        return pronouns, out, after

    def _german_complement(self, tags: Tags) -> list[Word]:
        if self.complement is None:
            return []
        tags.add("that-clause")
        clause = self.complement.german("final", tags)
        return [COMMA, *words("dass", self.that_node), *clause, COMMA]


@dataclass(frozen=True)
class Subordination:
    """A main clause with another of a reason, a time or a condition, before or behind it."""

    main: Clause
    conjunction: tuple[str, str]
    subordinate: Clause
    first: bool = False
    node: int = field(default_factory=new_node)

    def english(self, tags: Tags) -> Phrase:
        conjunction = words(self.conjunction[0], self.node)
        subordinate = Phrase.of("SBAR", conjunction, self.subordinate.english(tags))
        main = self.main.english(tags)
        if self.first:
            return Phrase.of("S", subordinate, COMMA, main)
        return Phrase.of("S", main, subordinate)

    def german(self, tags: Tags) -> list[Word]:
        tags.add("subordinate")
        conjunction = words(self.conjunction[1], self.node)
        subordinate = [*conjunction, *self.subordinate.german("final", tags)]
        if self.first:
            return [*subordinate, COMMA, *self.main.german("inverted", tags)]
        return [*self.main.german("main", tags), COMMA, *subordinate]


@dataclass(frozen=True)
class Coordination:
    """Two main clauses joined by and or but."""

    left: Clause
    conjunction: tuple[str, str]
    right: Clause
    node: int = field(default_factory=new_node)

    def english(self, tags: Tags) -> Phrase:
        conjunction = words(self.conjunction[0], self.node)
        return Phrase.of("S", self.left.english(tags), COMMA, conjunction, self.right.english(tags))

    def german(self, tags: Tags) -> list[Word]:
        # Before "und" the comma is free between main clauses; it keeps them apart.
        conjunction = words(self.conjunction[1], self.node)
        left = self.left.german("main", tags)
        return [*left, COMMA, *conjunction, *self.right.german("main", tags)]


@dataclass(frozen=True)
class Simple:
    """One main clause."""

    clause: Clause

    def english(self, tags: Tags) -> Phrase:
        return self.clause.english(tags)

    def german(self, tags: Tags) -> list[Word]:
        return self.clause.german("main", tags)


Sentence = Simple | Subordination | Coordination


def may_follow_before(clause: Clause) -> bool:
    """What happens after all, and once: "before he did not always sleep" says nothing."""
    parts = (clause.subject, clause.accusative, clause.dative)
    none = any(isinstance(part, NounPhrase) and part.determiner == "no" for part in parts)
    adverb = clause.adverb
    at_some_time = adverb is None or (adverb.kind == "time" and adverb.english != "now")
    return not (none or clause.negated) and at_some_time


def could_be_object(subject: Nominal, head: NounPhrase) -> bool:
    """Whether German, "die Frauen, die die Männer sahen", leaves open who saw whom."""
    if isinstance(subject, Pronoun):
        same = subject.person == head.person and head.gender != "m"
        return same and subject.kind in ("f", "p")
    if subject.determiner == "":
        return True  # "die fünf Männer" would be taken for article and noun
    either = head.noun.kind in ("human", "animal") and head.gender != "m"
    return either and subject.gender != "m" and subject.person == head.person
