"""Every written form of the German words with what it can be: german.py the other way round."""

import functools
from collections import defaultdict

from transformer_jax.data.grammar import german
from transformer_jax.data.grammar.english import POSSESSIVES
from transformer_jax.data.grammar.lexicon import load_lexicon
from transformer_jax.data.grammar.numbers import NUMBERS

__all__ = ["Forms", "german_forms"]

CASES = ("nom", "acc", "dat", "gen")


class Forms:
    """Every written form with what it can be."""

    def __init__(self):
        lexicon = load_lexicon()
        self.nouns, self.adjectives = defaultdict(set), defaultdict(set)
        self.determiners, self.relatives = defaultdict(list), defaultdict(list)
        self.pronouns, self.numbers = defaultdict(list), {name for _, name in NUMBERS.values()}
        self.finite, self.joined = defaultdict(list), defaultdict(list)
        self.participles, self.infinitives = defaultdict(list), defaultdict(list)
        self.auxiliaries, self.present = defaultdict(list), set()
        self.positives = {adjective.german for adjective in lexicon.adjectives}
        self.comparatives = {a.german_comparative for a in lexicon.adjectives} - {None}
        self._read_nouns(lexicon)
        self._read_verbs(lexicon)

    def _read_nouns(self, lexicon):
        for noun in lexicon.nouns:
            for case in CASES:
                self.nouns[german.noun(noun, case, False)].add((case, noun.gender))
                self.nouns[german.noun(noun, case, True)].add((case, "p"))
        for case in CASES:
            for gender in "mfnp":
                self.relatives[german.RELATIVE[case][gender]].append((case, gender))
                words = [(german.definite(case, gender), "weak"),
                         (german.demonstrative("dies", case, gender), "weak")]  # fmt: skip
                if gender != "p":
                    words.append((german.demonstrative("jed", case, gender), "weak"))
                    words.append((german.indefinite("ein", case, gender), "mixed"))
                stems = {"kein", *POSSESSIVES.values()}
                words += [(german.indefinite(stem, case, gender), "mixed") for stem in stems]
                for word, declension in words:
                    self.determiners[word].append((case, gender, declension))
                for adjective in lexicon.adjectives:
                    for declension in ("strong", "weak", "mixed"):
                        for more in {False, adjective.german_comparative is not None}:
                            form = german.adjective(
                                adjective, declension, case, gender, comparative=more
                            )
                            self.adjectives[form].add((declension, case, gender))
        people = {"I": "ich", "we": "wir", "p": "wir"}
        for kind in ("I", "we", "m", "f", "n", "p"):
            for case in CASES[:3]:
                form = german.pronoun(kind, case)
                self.pronouns[form].append((case, people.get(kind, "er")))

    def _read_verbs(self, lexicon):
        for verb in lexicon.verbs:
            self.participles[german.participle(verb)].append(verb)
            self.infinitives[german.infinitive(verb)].append(verb)
            for tense in ("present", "past"):
                for person in ("ich", "er", "wir"):
                    form = german.finite(verb, tense, person)
                    self.finite[form].append((verb, person))
                    self.joined[verb.particle + form].append((verb, person))
        for name in ("haben", "sein", "können", "müssen", "wollen"):
            for tense in ("present", "past"):
                for person in ("ich", "er", "wir"):
                    form = german.finite(name, tense, person)
                    self.auxiliaries[form].append((name, person))
                    if tense == "present":
                        self.present.add(form)


german_forms = functools.cache(Forms)
