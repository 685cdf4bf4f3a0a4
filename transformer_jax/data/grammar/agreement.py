"""A parser for the German of the embedded corpus: it reads a sentence and the lexicon, no more.

It does not share a line with the rules that write sentences (only the paradigms of german.py), so
what both accept is agreed by two. It checks case, gender and number inside noun phrases, the case
that verbs and prepositions govern, number of subject and verb, haben and sein, particles, relative
pronouns, and where the verb stands. It also judges what a model translates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from transformer_jax.data.grammar import german
from transformer_jax.data.grammar.forms import german_forms
from transformer_jax.data.grammar.lexicon import Verb

__all__ = ["is_grammatical"]

PREPOSITIONS = {
    "in": "dat acc", "hinter": "dat acc", "neben": "dat acc", "vor": "dat acc", "unter": "dat acc",
    "auf": "dat acc", "an": "dat acc", "zu": "dat", "durch": "acc",
}  # fmt: skip
ADVERBS = [
    text.split()
    for text in (
        "oft", "manchmal", "immer", "schon", "heute", "jetzt", "jeden Tag", "gestern", "nachts",
        "letzte Woche", "letztes Jahr", "am Abend", "am Morgen", "am Sonntag",
    )
]  # fmt: skip
SUBORDINATORS = {"weil", "obwohl", "während", "bevor"}


@dataclass(frozen=True)
class _Middle:
    """What stands between the verbs: the objects by case, nicht, a place's case, a predicate."""

    end: int
    objects: frozenset[str] = frozenset()
    place: str = ""
    predicate: bool = False
    gender: str = ""
    """Of the last noun, on which a relative clause may follow."""


def is_grammatical(sentence: str) -> bool:
    """Whether a sentence is German as the grammar means it.

    >>> is_grammatical("Der Mann gab das Buch zurück, das er stahl.")
    True
    >>> is_grammatical("Der Mann gab dem Buch zurück, das er stahl.")
    False
    """
    if not sentence.endswith("."):
        return False
    tokens = sentence.removesuffix(".").replace(",", " ,").split()
    if not tokens or sentence != f"{' '.join(tokens).replace(' ,', ',')}.":
        return False
    first = tokens[0]
    starts = {first, first[0].lower() + first[1:]} if first[0].isupper() else set()
    return any(_Parser([start, *tokens[1:]]).accepts() for start in starts)


class _Parser:
    """Recursive descent; every method yields all the ways to go on from a place."""

    def __init__(self, tokens: list[str]):
        self._tokens = [*tokens, "", ""]
        self._end = len(tokens)
        self._forms = german_forms()

    def accepts(self) -> bool:
        return any(end == self._end for end in self._sentence())

    def _sentence(self) -> Iterator[int]:
        tokens = self._tokens
        if tokens[0] in SUBORDINATORS:
            for i in self._final(1):
                if tokens[i] == ",":
                    yield from self._after_front(i + 1)
            return
        for i in self._main(0):
            yield i
            # The comma that ends a relative clause may have been read with it.
            for j in {i, i + 1} if tokens[i] == "," else {i}:
                behind = tokens[j - 1] == ","
                if tokens[j] in SUBORDINATORS and behind:
                    yield from self._final(j + 1)
                if tokens[j] in ("und", "aber") and behind:
                    yield from self._main(j + 1)

    # Clauses ------------------------------------------------------------------------------

    def _main(self, i: int) -> Iterator[int]:
        for j, person in self._subject(i):
            for middle in self._middle(_Middle(j + 1)):
                yield from self._predicate(j, middle, person)
        for j in self._adverb(i):
            yield from self._after_front(j)

    def _after_front(self, i: int) -> Iterator[int]:
        """The finite verb, then the subject, before or behind pronouns."""
        for person, middle in self._subject_and_middle(i + 1, ""):
            yield from self._predicate(i, middle, person)

    def _subject_and_middle(self, i: int, person: str) -> Iterator[tuple[str, _Middle]]:
        """(person, what follows); the subject is elsewhere if the person is known."""
        if person:
            yield from ((person, middle) for middle in self._middle(_Middle(i)))
            return
        for before in self._pronouns(_Middle(i)):
            for j, whose in self._subject(before.end):
                start = replace(before, end=j)
                for middle in self._middle(start):
                    yield whose, middle
                    if middle.end == j:  # the subject's own relative clause may come last
                        yield from self._subject_alone(before.end, j, whose, middle)

    def _subject_alone(self, i, j, person, middle):
        for end, gender in self._noun_phrase(i, "nom"):
            if end == j:
                yield person, replace(middle, gender=gender)

    def _predicate(self, finite: int, middle: _Middle, person: str) -> Iterator[int]:
        """The finite verb stands at `finite`; the clause goes on behind its middle."""
        forms, tokens = self._forms, self._tokens
        word = tokens[finite]
        j = middle.end
        for verb, whose in forms.finite[word]:
            if whose == person and (not verb.particle or tokens[j] == verb.particle):
                yield from self._close(j + bool(verb.particle), verb, middle)
        for auxiliary, whose in forms.auxiliaries[word]:
            if whose != person:
                continue
            if auxiliary == "sein" and middle.predicate and not middle.objects:
                yield from self._relative_after(j, middle)
            for verb in self._with_auxiliary(auxiliary, word, tokens[j]):
                yield from self._close(j + 1, verb, middle)

    def _with_auxiliary(self, auxiliary: str, finite: str, word: str) -> Iterator[Verb]:
        """Verbs of which `word` is what the auxiliary asks for: participle, or infinitive."""
        if auxiliary not in ("haben", "sein"):
            yield from self._forms.infinitives[word]
        elif finite in self._forms.present:
            yield from (v for v in self._forms.participles[word] if v.auxiliary == auxiliary)

    def _final(self, i: int, gap: str = "", person: str = "") -> Iterator[int]:
        """A clause with its verb last; its subject too is missing if `person` is given."""
        forms, tokens = self._forms, self._tokens
        for whose, middle in self._subject_and_middle(i, person):
            j = middle.end
            found = replace(middle, objects=middle.objects | ({gap} - {"", "nom"}))
            if gap in middle.objects:
                continue
            for verb, agrees in forms.joined[tokens[j]]:
                if agrees == whose:
                    yield from self._close(j + 1, verb, found)
            for auxiliary, agrees in forms.auxiliaries[tokens[j + 1]]:
                if agrees == whose:
                    for verb in self._with_auxiliary(auxiliary, tokens[j + 1], tokens[j]):
                        yield from self._close(j + 2, verb, found)
            for auxiliary, agrees in forms.auxiliaries[tokens[j]]:
                if auxiliary == "sein" and agrees == whose and found.predicate:
                    yield from self._relative_after(j + 1, found)
                    yield from self._standard(j + 1, self._tokens[j - 1])

    def _close(self, i: int, verb: Verb, middle: _Middle) -> Iterator[int]:
        """What the verb asks for must be there, and nothing else; then what follows the clause."""
        objects = {"accusative": {"acc"}, "dative": {"dat"}, "give": {"acc", "dat"},
                   "put": {"acc"}}.get(verb.frame, set())  # fmt: skip
        needs_place = verb.frame in ("rest", "motion", "put")
        place = {"motion": ("acc", "to"), "put": ("acc",)}.get(verb.frame, ("dat",))
        if middle.objects != objects or middle.predicate or (needs_place and not middle.place):
            return
        if middle.place and middle.place not in place:
            return
        if verb.frame != "that":
            yield from self._relative_after(i, middle)
        elif self._tokens[i : i + 2] == [",", "dass"]:
            for j in self._final(i + 2):
                yield from self._closing_comma(j)

    def _relative_after(self, i: int, middle: _Middle) -> Iterator[int]:
        yield i
        if middle.gender:
            yield from self._relative(i, middle.gender)

    def _relative(self, i: int, gender: str) -> Iterator[int]:
        """A relative clause on a noun of this gender, from its comma on."""
        if self._tokens[i] != ",":
            return
        for case, whose in self._forms.relatives[self._tokens[i + 1]]:
            if whose != gender:
                continue
            person = "wir" if gender == "p" else "er"
            if case == "gen":
                for j, owned in self._noun_phrase(i + 2, "nom", bare=True):
                    agrees = "wir" if owned == "p" else "er"
                    for k in self._final(j, person=agrees):
                        yield from self._closing_comma(k)
            else:
                for k in self._final(i + 2, case, person if case == "nom" else ""):
                    yield from self._closing_comma(k)

    def _closing_comma(self, i: int) -> Iterator[int]:
        """A subordinate clause ends with a comma, its own or the next one's, or the sentence."""
        if i == self._end or self._tokens[i] == ",":
            yield i
        if self._tokens[i] == ",":
            yield i + 1

    # Parts of clauses ---------------------------------------------------------------------

    def _subject(self, i: int) -> Iterator[tuple[int, str]]:
        for case, person in self._forms.pronouns[self._tokens[i]]:
            if case == "nom":
                yield i + 1, person
        for j, gender in self._noun_phrase(i, "nom"):
            yield j, "wir" if gender == "p" else "er"

    def _middle(self, start: _Middle) -> Iterator[_Middle]:
        """Pronouns, adverb, dative, accusative, adverb, nicht, place, predicate: any may miss."""
        for found in self._pronouns(start):
            for end in {found.end, *self._adverb(found.end)}:
                for with_dative in self._object(replace(found, end=end), "dat"):
                    for with_both in self._second_object(with_dative):
                        yield from self._tail_of_middle(with_both)
                        if end == found.end:
                            for later in self._adverb(with_both.end):
                                yield from self._tail_of_middle(replace(with_both, end=later))

    def _pronouns(self, found: _Middle) -> Iterator[_Middle]:
        yield found
        for case, _ in self._forms.pronouns[self._tokens[found.end]]:
            if case in ("acc", "dat") and case not in found.objects and "dat" not in found.objects:
                longer = replace(found, end=found.end + 1, objects=found.objects | {case})
                yield from self._pronouns(longer)

    def _object(self, found: _Middle, case: str) -> Iterator[_Middle]:
        yield found
        if case not in found.objects:
            for end, gender in self._noun_phrase(found.end, case):
                yield replace(found, end=end, objects=found.objects | {case}, gender=gender)

    def _second_object(self, found: _Middle) -> Iterator[_Middle]:
        """The accusative; between two objects there may be an adverb."""
        yield from self._object(found, "acc")
        if "dat" in found.objects:
            for end in self._adverb(found.end):
                for both in self._object(replace(found, end=end), "acc"):
                    if "acc" in both.objects:
                        yield both

    def _tail_of_middle(self, found: _Middle) -> Iterator[_Middle]:
        end = found.end
        if self._tokens[end] == "nicht":
            end, found = end + 1, replace(found, end=end + 1)
        yield found
        for after, case in self._prepositional(end):
            yield replace(found, end=after, place=case, gender="")
        for after in self._adjective_phrase(end):
            yield replace(found, end=after, predicate=True, gender="")

    def _adverb(self, i: int) -> Iterator[int]:
        for adverb in ADVERBS:
            if self._tokens[i : i + len(adverb)] == adverb:
                yield i + len(adverb)

    def _adjective_phrase(self, i: int) -> Iterator[int]:
        forms, tokens = self._forms, self._tokens
        if tokens[i] in forms.positives:
            yield i + 1
        if tokens[i] in ("sehr", "zu") and tokens[i + 1] in forms.positives:
            yield i + 2
        # What something is compared with may come at once, or after the verb that ends the clause.
        if tokens[i] in forms.comparatives:
            yield i + 1
            yield from self._standard(i + 1, tokens[i])
        if tokens[i] == "so" and tokens[i + 1] in forms.positives:
            yield i + 2
            yield from self._standard(i + 2, tokens[i + 1])

    def _standard(self, i: int, adjective: str) -> Iterator[int]:
        """älter als, so alt wie."""
        word = "als" if adjective in self._forms.comparatives else "wie"
        if self._tokens[i] == word:
            yield from (j for j, _ in self._noun_phrase(i + 1, "nom"))

    def _prepositional(self, i: int) -> Iterator[tuple[int, str]]:
        """(end, "dat", "acc" or, for zu, "to")."""
        word = self._tokens[i]
        for case in PREPOSITIONS.get(word, "").split():
            for j, _ in self._noun_phrase(i + 1, case):
                # in dem stands alone only before a relative clause, which ends with its comma.
                joined = (word, self._tokens[i + 1]) in german.CONTRACTIONS
                if not joined or "," in self._tokens[i:j]:
                    yield j, "to" if word == "zu" else case
        for (preposition, article), contraction in german.CONTRACTIONS.items():
            if contraction != word:
                continue
            for case in PREPOSITIONS.get(preposition, "").split():
                for j, _ in self._noun_phrase(i + 1, case, article=article):
                    yield j, "to" if preposition == "zu" else case

    # Noun phrases -------------------------------------------------------------------------

    def _noun_phrase(
        self, i: int, case: str, *, article: str = "", bare: bool = False
    ) -> Iterator[tuple[int, str]]:
        """(end, gender). `article` was read in a contraction; `bare` ones follow dessen, deren."""
        forms, tokens = self._forms, self._tokens
        openings: list[tuple[int, str, str]] = []
        if bare:
            openings = [(i, gender, "strong") for gender in "mfnp"]
        else:
            word = article or tokens[i]
            for found, gender, declension in forms.determiners[word]:
                if found == case:
                    openings.append((i + (not article), gender, declension))
            if not article:
                openings.append((i, "p", "strong"))
        for start, gender, declension in openings:
            j = start
            if gender == "p" and tokens[j] in forms.numbers:
                j += 1
            for k in self._adjectives(j, declension, case, gender):
                if (case, gender) in forms.nouns[tokens[k]]:
                    for end in self._company(k + 1, gender):
                        yield end, gender

    def _adjectives(self, i: int, declension: str, case: str, gender: str) -> Iterator[int]:
        forms, tokens = self._forms, self._tokens
        yield i
        if (declension, case, gender) in forms.adjectives[tokens[i]]:
            yield i + 1
            if (
                tokens[i + 1] == ","
                and (declension, case, gender) in forms.adjectives[tokens[i + 2]]
            ):
                yield i + 3

    def _company(self, i: int, gender: str) -> Iterator[int]:
        """After the noun: nothing, an owner, a place, a relative clause."""
        yield i
        yield from (j for j, _ in self._plain_owner(i))
        yield from (j for j, case in self._prepositional(i) if case == "dat")
        yield from self._relative(i, gender)
        for j, _ in self._plain_owner(i):
            yield from self._relative(j, gender)

    def _plain_owner(self, i: int) -> Iterator[tuple[int, str]]:
        if any(case == "gen" for case, *_ in self._forms.determiners[self._tokens[i]]):
            yield from self._noun_phrase(i, "gen")
