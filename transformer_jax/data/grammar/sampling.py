"""Random sentences: which nouns, verbs and clauses go together, and how often."""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from transformer_jax.data.grammar.clauses import (
    Adverb,
    Clause,
    Coordination,
    Predicate,
    Sentence,
    Simple,
    Subordination,
    could_be_object,
    may_follow_before,
)
from transformer_jax.data.grammar.collocations import (
    AT_REST,
    CONJUNCTIONS,
    EITHER_SEX,
    FREQUENCY,
    GOALS,
    INANIMATE,
    INTO,
    NEVER_OWNED,
    NEVER_SAID,
    NEVER_WILLED,
    TIME,
    TIME_ANY,
    TOWARDS,
)
from transformer_jax.data.grammar.english import POSSESSIVES
from transformer_jax.data.grammar.lexicon import Noun, Verb, load_lexicon
from transformer_jax.data.grammar.phrases import (
    Modifier,
    Nominal,
    NounPhrase,
    PrepositionalPhrase,
    Pronoun,
    Relative,
)

__all__ = ["Sampler"]


class Sampler:
    """Draws sentences; every choice comes from `rng`."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        lexicon = load_lexicon()
        self._nouns: dict[str, list[Noun]] = defaultdict(list)
        for noun in lexicon.nouns:
            self._nouns[noun.kind].append(noun)
        self._adjectives = lexicon.adjectives
        self._verbs: dict[str, list[Verb]] = defaultdict(list)
        for verb in lexicon.verbs:
            self._verbs[verb.frame].append(verb)
        self._begin()

    def _begin(self) -> None:
        # While a sentence speaks of "it", nothing else in it may be singular and no person.
        self._reserved = False
        self._tense = "present"
        # A person of either sex was named; or he, she, his or her was said.
        self._sex_unknown = self._sex_said = False
        self._nouns_said: set[str] = set()
        self._verbs_said: set[Verb] = set()
        self._time_said = False

    def sentence(self) -> Sentence:
        """One sentence."""
        self._begin()
        kind = self._weighted({"simple": 6, "subordinate": 4, "coordinate": 2, "it": 5})
        if kind == "it":
            return self._speaking_of_it()
        tense = self._weighted({"present": 4, "past": 5, "perfect": 2})
        if kind == "simple":
            return Simple(self._clause(tense, main=True))
        if kind == "coordinate":
            conjunction = self._choice((("and", "und"), ("but", "aber")))
            return Coordination(self._clause(tense), conjunction, self._clause(tense))
        tense = "past" if tense == "perfect" else tense
        main, subordinate = self._clause(tense), self._clause(tense)
        conjunction = self._choice(CONJUNCTIONS[: 4 if may_follow_before(subordinate) else 3])
        if main.negated and conjunction[0] == "before":  # not before: not until
            main = replace(main, negated=False)
        placed = isinstance(main.subject, NounPhrase) and main.subject.place
        first = not placed and self._chance(0.35)
        return Subordination(main, conjunction, subordinate, first=first)

    # Clauses ------------------------------------------------------------------------------

    def _clause(self, tense: str, *, main: bool = False, simple: bool = False) -> Clause:
        """A clause about somebody or something; `simple` ones carry no further clause."""
        self._tense = tense
        weights = {"accusative": 8, "intransitive": 3, "rest": 3, "motion": 3, "dative": 3,
                   "put": 2, "give": 3, "be": 3 if tense != "perfect" else 0,
                   "that": 0 if simple else 2}  # fmt: skip
        frame = self._weighted(weights)
        if frame == "be":
            return self._decorate(self._being(tense, simple=simple), main)
        verb = self._verb(self._verbs[frame])
        subject = self._nominal(verb.subjects, simple=simple)
        clause = self._fill(verb, subject, tense, simple=simple)
        return self._decorate(clause, main)

    def _fill(self, verb: Verb, subject: Nominal, tense: str, *, simple: bool) -> Clause:
        """Objects, place and complement as the verb's frame asks."""
        parts: dict[str, Any] = {"tense": tense}
        if verb.frame in ("accusative", "give", "put"):
            inner = verb.frame == "accusative" and not simple
            parts["accusative"] = self._nominal(verb.objects, simple=not inner)
        if verb.frame == "dative":
            parts["dative"] = self._nominal(verb.objects, simple=simple)
        if verb.frame == "give":
            parts["dative"] = self._nominal({"human"}, simple=True)
        # "Er lief vor dem Bus weg" would be away from it.
        somewhere = verb.frame == "intransitive" and verb.auxiliary == "haben"
        if verb.frame == "rest" or (somewhere and self._chance(0.4)):
            # "smiles on" and "looks on" would be other verbs.
            parts["place"] = self._place(AT_REST[: 6 if verb.frame == "rest" else 5], "dat")
        if verb.frame == "motion" and self._chance(0.35):
            english, german, case, kinds = self._choice(TOWARDS)
            parts["place"] = self._preposition(english, german, case, kinds.split())
        elif verb.frame in ("motion", "put"):
            goals = GOALS.get(verb.base, 2 if verb.frame == "motion" else 5)
            parts["place"] = self._place(INTO[:goals], "acc")
        if verb.frame == "that":
            parts["complement"] = self._clause(
                "past" if tense == "past" else "present", simple=True
            )
        return Clause(subject, verb, **parts)

    def _being(self, tense: str, *, simple: bool) -> Clause:
        kind = self._choice(list(self._nouns))
        subject = self._noun_phrase({kind}, simple=simple)
        return Clause(subject, None, tense, predicate=self._predicate(kind))  # type: ignore[arg-type]

    def _predicate(self, kind: str, *, plain: bool = False) -> Predicate:
        adjective = self._choice([a for a in self._adjectives if kind in a.kinds])
        degrees = {"": 2, "very": 2, "too": 2, "more": 2, "as": 1}
        if adjective.english_comparative is None:
            degrees = {"": 1}
        degree = self._weighted(
            {"": 1, "very": 2, "too": 2} if plain and len(degrees) > 1 else degrees
        )
        standard = None
        if degree in ("more", "as"):
            standard = self._noun_phrase({kind}, simple=True)
        return Predicate(adjective, degree, standard)

    def _decorate(self, clause: Clause, main: bool) -> Clause:
        """A modal, a negation or an adverb, where it does not disturb."""
        definite = all(
            not isinstance(part, NounPhrase) or part.determiner not in ("a", "", "no", "every")
            for part in (clause.subject, clause.accusative, clause.dative)
        )
        if clause.predicate is not None and clause.predicate.standard is not None:
            definite = False
        if definite and clause.complement is None and self._chance(0.12):
            return replace(clause, negated=True)
        willed = clause.verb is not None and clause.verb.base not in NEVER_WILLED
        if willed and clause.tense != "perfect" and self._chance(0.15):
            human = isinstance(clause.subject, Pronoun) or clause.subject.noun.kind == "human"
            if human and clause.complement is None:
                modal = self._choice(("can", "must", "want to"))
                return replace(clause, modal=modal)
        if self._chance(0.35):
            return self._with_adverb(clause, main)
        return clause

    def _with_adverb(self, clause: Clause, main: bool) -> Clause:
        nobody = isinstance(clause.subject, NounPhrase) and clause.subject.determiner == "no"
        timeless = clause.predicate is not None or clause.complement is not None
        if timeless or self._time_said or self._chance(0.3):
            # "who helped a man often laughs" could be either's often.
            related = isinstance(clause.subject, NounPhrase) and clause.subject.relative
            if (
                related
                or nobody
                or (clause.predicate is not None and clause.predicate.degree == "too")
            ):
                return clause
            english, german = self._choice(FREQUENCY)
            return replace(clause, adverb=Adverb(english, german, "frequency"))
        if clause.tense == "perfect":
            return replace(clause, adverb=Adverb("already", "schon", "frequency"))
        english, german = self._choice((*TIME[clause.tense], *TIME_ANY))
        placed = isinstance(clause.subject, NounPhrase) and clause.subject.place
        fronted = main and not placed and self._chance(0.6)
        # At the end of the English sentence it would belong to a relative clause there.
        last = clause.place or clause.accusative or clause.dative
        if not fronted and isinstance(last, NounPhrase) and last.relative is not None:
            return clause
        self._time_said = True
        return replace(clause, adverb=Adverb(english, german, "time"), fronted=fronted)

    # Nouns --------------------------------------------------------------------------------

    def _nominal(self, kinds: Iterable[str], *, simple: bool) -> Nominal:
        """A noun phrase, or a pronoun where a person is meant."""
        if "human" in kinds and self._chance(0.16):
            # After "the teacher", he or she would say which.
            kinds = ("I", "we", "p") if self._sex_unknown else ("I", "we", "p", "m", "f")
            pronoun = Pronoun(self._choice(kinds))
            self._sex_said |= pronoun.kind in ("m", "f")
            return pronoun
        return self._noun_phrase(kinds, simple=simple)

    def _noun_phrase(
        self, kinds: Iterable[str], *, simple: bool, determiners: dict[str, float] | None = None
    ) -> NounPhrase:
        noun = self._noun(self._choice(sorted(kinds)))
        plural = self._chance(0.35) or (self._sex_said and noun.singular in EITHER_SEX)
        if self._reserved and (noun.kind != "human" or noun.singular == "child"):
            plural = True
        self._sex_unknown |= noun.singular in EITHER_SEX and not plural
        weights = determiners or {
            "the": 9, "a": 0 if plural else 5, "": 2 if plural else 0, "this": 2,
            "every": 0 if plural else 0.7, "no": 0.7, "my": 0.8, "his": 0.8, "her": 0.8,
            "our": 0.5, "their": 0.5,
        }  # fmt: skip
        if noun.singular in NEVER_OWNED:
            weights = {w: p for w, p in weights.items() if w not in POSSESSIVES}
        if self._sex_unknown:
            weights = {w: p for w, p in weights.items() if w not in ("his", "her")}
        number = None
        # "zwei alter Männer" is no German for "of two old men".
        if plural and determiners is None and self._chance(0.2):
            number = self._number()
            weights = {"the": 2, "": 3}
        determiner = self._weighted(weights)
        self._sex_said |= determiner in ("his", "her")
        phrase = NounPhrase(noun, determiner, plural, number, self._modifiers(noun, plural=plural))
        if simple or phrase.determiner in ("no", "every"):
            return phrase
        return self._extended(phrase)

    def _noun(self, kind: str) -> Noun:
        """A noun that the sentence has not named yet."""
        noun = self._choice([n for n in self._nouns[kind] if n.singular not in self._nouns_said])
        self._nouns_said.add(noun.singular)
        return noun

    def _verb(self, options: list[Verb]) -> Verb:
        """A verb that the sentence has not used yet, while there is one."""
        verb = self._choice([verb for verb in options if verb not in self._verbs_said] or options)
        self._verbs_said.add(verb)
        return verb

    def _extended(self, phrase: NounPhrase) -> NounPhrase:
        """With an owner, a place or a relative clause, or as it is."""
        company = self._weighted({"": 14, "owner": 2, "place": 1, "relative": 5})
        kind = phrase.noun.kind
        if company == "owner" and kind != "human" and phrase.determiner == "the":
            definite = {"the": 1.0, "my": 0.2}
            owner = self._noun_phrase({"human"}, simple=True, determiners=definite)
            return replace(phrase, owner=owner)
        # Anywhere but first in the sentence the place would be where something happens.
        opens = self._nouns_said == {phrase.noun.singular}
        if company == "place" and opens and kind in ("human", "thing", "furniture", "vehicle"):
            return replace(phrase, place=self._place(AT_REST[:3], "dat"))
        if company == "relative":
            return replace(phrase, relative=self._relative(phrase))
        return phrase

    def _relative(self, head: NounPhrase) -> Relative:
        kind = head.noun.kind
        tense = self._choice(("present", "past")) if self._tense == "present" else "past"
        roles = {"nom": 4, "acc": 3}
        if kind == "human":
            roles |= {"dat": 4 if head.plural else 2, "gen": 2}
        role = self._weighted(roles)
        stub = NounPhrase(head.noun, "the", head.plural)
        if role == "gen":
            noun = self._noun(self._choice(("animal", "thing")))
            plural = self._chance(0.3) or self._reserved
            owned = NounPhrase(noun, "", plural, modifiers=self._modifiers(noun, plural=plural))
            predicate = self._predicate(owned.noun.kind, plain=True)
            return Relative(Clause(owned, None, tense, predicate=predicate), role)  # type: ignore[arg-type]
        if role == "nom":
            frames = ("accusative", "intransitive", "rest", "motion", "dative")
            verbs = [v for f in frames for v in self._verbs[f] if kind in v.subjects]
            if not verbs:
                predicate = self._predicate(kind, plain=True)
                return Relative(Clause(stub, None, tense, predicate=predicate), role)  # type: ignore[arg-type]
            while True:
                clause = self._fill(self._verb(verbs), stub, tense, simple=True)
                if clause.accusative is None or not could_be_object(clause.accusative, head):
                    return Relative(clause, role)
        if role == "acc":
            verb = self._verb([v for v in self._verbs["accusative"] if kind in v.objects])
            subject = self._nominal(verb.subjects, simple=True)
            while could_be_object(subject, head):
                subject = self._nominal(verb.subjects, simple=True)
            return Relative(Clause(subject, verb, tense, accusative=stub), role)  # type: ignore[arg-type]
        verb = self._verb([v for f in ("dative", "give") for v in self._verbs[f]])
        subject = self._nominal(verb.subjects, simple=True)
        thing = self._nominal(verb.objects, simple=True) if verb.frame == "give" else None
        return Relative(Clause(subject, verb, tense, accusative=thing, dative=stub), role)  # type: ignore[arg-type]

    def _modifiers(self, noun: Noun, *, plural: bool = False) -> tuple[Modifier, ...]:
        count = int(self._weighted({"0": 6, "1": 5, "2": 1}))
        fitting = [
            a
            for a in self._adjectives
            if noun.kind in a.kinds and (noun.singular, a.english) not in NEVER_SAID
        ]
        first = self._choice(fitting)
        if count < 2:
            form = first.english_comparative
            # "more tired bakers" could be a greater number of them.
            counted = plural and form is not None and form.startswith("more ")
            comparative = form is not None and not counted and self._chance(0.1)
            return (Modifier(first, comparative),) * count
        # Two colours, or a comparative beside another adjective, is nothing that people say.
        graded = [a for a in fitting if a.english_comparative is not None and a is not first]
        return Modifier(self._choice(graded)), Modifier(first)

    def _number(self) -> int:
        return self._rng.randint(2, 12) if self._chance(0.7) else self._rng.randint(13, 99)

    def _place(self, prepositions, case: str) -> PrepositionalPhrase:
        english, german, kinds = self._choice(prepositions)
        return self._preposition(english, german, case, kinds.split())

    def _preposition(self, english, german, case, kinds) -> PrepositionalPhrase:
        determiners = {"the": 6.0, "a": 0.0 if self._reserved else 2.0, "my": 0.5, "their": 0.5}
        phrase = self._noun_phrase(kinds, simple=True, determiners=determiners)
        if phrase.plural and phrase.determiner == "a":
            phrase = replace(phrase, determiner="the")
        return PrepositionalPhrase(english, german, case, phrase)

    # It -----------------------------------------------------------------------------------

    def _speaking_of_it(self) -> Sentence:
        """Two clauses: one names a thing, the other says something of it, perhaps far away."""
        verb = self._verb([v for v in self._verbs["accusative"] if v.objects & set(INANIMATE)])
        kind = self._choice(sorted(verb.objects & set(INANIMATE)))
        tense = self._choice(("present", "past"))
        noun = self._noun(kind)
        determiner = self._weighted({"the": 4, "a": 4, "my": 1, "our": 1, "their": 1, "this": 1})
        thing = NounPhrase(noun, determiner, modifiers=self._modifiers(noun))
        self._reserved, self._tense = True, tense
        subject = self._nominal({"human"}, simple=self._chance(0.5))
        if self._chance(0.45):
            thing = replace(thing, relative=self._relative(thing))
        elif thing.determiner == "the" and self._chance(0.35):
            owner = self._noun_phrase({"human"}, simple=True, determiners={"the": 1.0})
            thing = replace(thing, owner=owner)
        first = Clause(subject, verb, tense, accusative=thing)  # type: ignore[arg-type]
        second = self._about(Pronoun("n", thing), kind, tense)
        if self._chance(0.5):
            conjunction = self._choice(CONJUNCTIONS[:2])
            return Subordination(first, conjunction, second)
        return Coordination(first, self._choice((("and", "und"), ("but", "aber"))), second)

    def _about(self, it: Pronoun, kind: str, tense: str) -> Clause:
        """Something that is said of it."""
        if self._chance(0.45):
            predicate = self._predicate(kind, plain=True)
            return Clause(it, None, tense, predicate=predicate)  # type: ignore[arg-type]
        verb = self._verb([v for v in self._verbs["accusative"] if kind in v.objects])
        subject = self._nominal(verb.subjects - {"animal"}, simple=self._chance(0.5))
        if isinstance(subject, Pronoun) and subject.kind in ("f", "p"):  # no "sie sie"
            subject = Pronoun(self._choice(("I", "we")))
        return Clause(subject, verb, tense, accusative=it)  # type: ignore[arg-type]

    # Chance -------------------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _choice(self, options):
        return options[int(self._rng.random() * len(options))]

    def _weighted(self, weights) -> str:
        point = self._rng.random() * sum(weights.values())
        for option, weight in weights.items():
            point -= weight
            if point < 0:
                return option
        return next(option for option, weight in reversed(weights.items()) if weight)
