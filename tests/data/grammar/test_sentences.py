"""Sentences built by hand beside the German that a speaker would write."""

import pytest

from transformer_jax.data.grammar import german
from transformer_jax.data.grammar.clauses import (
    Adverb,
    Clause,
    Coordination,
    Predicate,
    Simple,
    Subordination,
)
from transformer_jax.data.grammar.corpus import example_of
from transformer_jax.data.grammar.lexicon import load_lexicon
from transformer_jax.data.grammar.numbers import NUMBERS
from transformer_jax.data.grammar.phrases import (
    Modifier,
    NounPhrase,
    PrepositionalPhrase,
    Pronoun,
    Relative,
)

NOUNS = {noun.singular: noun for noun in load_lexicon().nouns}
ADJECTIVES = {adjective.english: adjective for adjective in load_lexicon().adjectives}
VERBS = {verb.base: verb for verb in load_lexicon().verbs}


def np(text, determiner="the", plural=False, **options):
    """A noun phrase of "adjective ... noun"."""
    *adjectives, noun = text.split()
    modifiers = tuple(Modifier(ADJECTIVES[word]) for word in adjectives)
    return NounPhrase(NOUNS[noun], determiner, plural, modifiers=modifiers, **options)


def said(subject, verb, **options):
    return Clause(subject, VERBS[verb], **options)


def pp(words, german_word, case, thing):
    return PrepositionalPhrase(words, german_word, case, thing)


MAN, WOMAN, CHILDREN = np("man"), np("woman"), np("child", plural=True)
TABLE = np("table", "a")
FRIENDS = np("friend", plural=True)

SENTENCES = [
    (Simple(said(np("old man", "a"), "sleep")), "An old man sleeps.", "Ein alter Mann schläft."),
    (
        Simple(said(MAN, "buy", tense="past", accusative=np("useful book", "a"))),
        "The man bought a useful book.",
        "Der Mann kaufte ein nützliches Buch.",
    ),
    (
        Simple(said(WOMAN, "help", dative=np("young boy", "this"))),
        "The woman helps this young boy.",
        "Die Frau hilft diesem jungen Jungen.",
    ),
    (  # verb second, and its particle last
        Simple(
            said(
                WOMAN,
                "get up",
                tense="past",
                fronted=True,
                adverb=Adverb("yesterday", "gestern", "time"),
            )
        ),
        "Yesterday the woman got up.",
        "Gestern stand die Frau auf.",
    ),
    (
        Simple(said(CHILDREN, "fall asleep", tense="perfect")),
        "The children have fallen asleep.",
        "Die Kinder sind eingeschlafen.",
    ),
    (
        Simple(said(Pronoun("I"), "invite", modal="want to", accusative=np("guest", "my", True))),
        "I want to invite my guests.",
        "Ich will meine Gäste einladen.",
    ),
    (
        Simple(said(MAN, "find", accusative=np("key"), negated=True)),
        "The man does not find the key.",
        "Der Mann findet den Schlüssel nicht.",
    ),
    (
        Simple(said(MAN, "find", accusative=np("key", "no", True), tense="perfect")),
        "The man has found no keys.",
        "Der Mann hat keine Schlüssel gefunden.",
    ),
    (
        Simple(said(MAN, "understand", accusative=WOMAN, modal="can", tense="past")),
        "The man was able to understand the woman.",
        "Der Mann konnte die Frau verstehen.",
    ),
    (
        Simple(said(MAN, "give", dative=WOMAN, accusative=np("red apple", "a"))),
        "The man gives the woman a red apple.",
        "Der Mann gibt der Frau einen roten Apfel.",
    ),
    (  # pronouns before nouns
        Simple(said(MAN, "give", dative=WOMAN, accusative=Pronoun("p"))),
        "The man gives them to the woman.",
        "Der Mann gibt sie der Frau.",
    ),
    (
        Simple(said(MAN, "pick up", accusative=Pronoun("p"))),
        "The man picks them up.",
        "Der Mann hebt sie auf.",
    ),
    (
        Simple(said(MAN, "look for", accusative=Pronoun("f"))),
        "The man looks for her.",
        "Der Mann sucht sie.",
    ),
    (  # rest and motion
        Simple(said(np("cup", plural=True), "stand", place=pp("on", "auf", "dat", np("table")))),
        "The cups stand on the table.",
        "Die Tassen stehen auf dem Tisch.",
    ),
    (
        Simple(
            said(MAN, "place", accusative=np("cup"), place=pp("onto", "auf", "acc", np("table")))
        ),
        "The man places the cup onto the table.",
        "Der Mann stellt die Tasse auf den Tisch.",
    ),
    (
        Simple(said(MAN, "go", place=pp("into", "in", "acc", np("house")))),
        "The man goes into the house.",
        "Der Mann geht ins Haus.",
    ),
    (
        Simple(said(FRIENDS, "go", place=pp("to", "zu", "dat", np("school")))),
        "The friends go to the school.",
        "Die Freunde gehen zur Schule.",
    ),
    (  # the relative clause behind the words that end the clause
        Simple(
            said(
                MAN,
                "give back",
                tense="past",
                accusative=np(
                    "book",
                    relative=Relative(
                        said(Pronoun("m"), "steal", tense="past", accusative=np("book")), "acc"
                    ),
                ),
            )
        ),
        "The man gave back the book that he stole.",
        "Der Mann gab das Buch zurück, das er stahl.",
    ),
    (  # no contraction where a relative clause picks one out
        Simple(
            said(
                MAN,
                "sleep",
                place=pp(
                    "in",
                    "in",
                    "dat",
                    np(
                        "house",
                        relative=Relative(said(WOMAN, "love", accusative=np("house")), "acc"),
                    ),
                ),
            )
        ),
        "The man sleeps in the house that the woman loves.",
        "Der Mann schläft in dem Haus, das die Frau liebt.",
    ),
    (
        Simple(
            said(
                np(
                    "friend",
                    plural=True,
                    relative=Relative(said(WOMAN, "thank", dative=FRIENDS), "dat"),
                ),
                "laugh",
            )
        ),
        "The friends whom the woman thanks laugh.",
        "Die Freunde, denen die Frau dankt, lachen.",
    ),
    (
        Simple(
            said(
                np(
                    "man",
                    relative=Relative(
                        Clause(
                            np("old dog", ""),
                            None,
                            predicate=Predicate(ADJECTIVES["tired"], "very"),
                        ),
                        "gen",
                    ),
                ),
                "work",
            )
        ),
        "The man whose old dog is very tired works.",
        "Der Mann, dessen alter Hund sehr müde ist, arbeitet.",
    ),
    (
        Simple(
            Clause(
                TABLE,
                None,
                predicate=Predicate(ADJECTIVES["expensive"], "more", np("dark chair", "the")),
            )
        ),
        "A table is more expensive than the dark chair.",
        "Ein Tisch ist teurer als der dunkle Stuhl.",
    ),
    (
        Simple(
            Clause(np("bear"), None, predicate=Predicate(ADJECTIVES["strong"], "as", np("lion")))
        ),
        "The bear is as strong as the lion.",
        "Der Bär ist so stark wie der Löwe.",
    ),
    (
        Simple(
            said(
                np("dog", plural=True, number=21),
                "chase",
                accusative=np("hare", "", True, number=2),
            )
        ),
        "The twenty-one dogs chase two hares.",
        "Die einundzwanzig Hunde jagen zwei Hasen.",
    ),
    (
        Simple(said(MAN, "wash", tense="past", accusative=np("car", owner=np("neighbour")))),
        "The man washed the neighbour's car.",
        "Der Mann wusch das Auto des Nachbarn.",
    ),
    (
        Subordination(
            said(MAN, "laugh"), ("because", "weil"), said(WOMAN, "phone", accusative=Pronoun("m"))
        ),
        "The man laughs because the woman phones him.",
        "Der Mann lacht, weil die Frau ihn anruft.",
    ),
    (
        Subordination(
            said(MAN, "come back", tense="past"),
            ("before", "bevor"),
            said(WOMAN, "sing", tense="past"),
            first=True,
        ),
        "Before the woman sang, the man came back.",
        "Bevor die Frau sang, kam der Mann zurück.",
    ),
    (
        Simple(
            said(
                MAN,
                "believe",
                complement=said(CHILDREN, "sleep", place=pp("in", "in", "dat", np("garden"))),
            )
        ),
        "The man believes that the children sleep in the garden.",
        "Der Mann glaubt, dass die Kinder im Garten schlafen.",
    ),
    (
        Coordination(
            said(MAN, "buy", accusative=TABLE),
            ("but", "aber"),
            said(WOMAN, "sell", accusative=Pronoun("n", TABLE)),
        ),
        "The man buys a table, but the woman sells it.",
        "Der Mann kauft einen Tisch, aber die Frau verkauft ihn.",
    ),
    (
        Simple(said(MAN, "repair", accusative=np("old heavy clock", "her"))),
        "The man repairs her old, heavy clock.",
        "Der Mann repariert ihre alte, schwere Uhr.",
    ),
]


@pytest.mark.parametrize(("sentence", "english", "expected"), SENTENCES, ids=lambda x: str(x)[:40])
def test_sentences(sentence, english, expected):
    example = example_of(sentence)
    assert (example.english, example.german) == (english, expected)


def test_alignments_by_hand():
    sentence = Simple(
        said(np("old man"), "go", negated=True, place=pp("to", "zu", "dat", np("school")))
    )
    example = example_of(sentence)
    assert example.english == "The old man does not go to the school."
    assert example.german == "Der alte Mann geht nicht zur Schule."
    assert example.alignment == (
        (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 3), (6, 5), (7, 5), (8, 6))  # fmt: skip
    assert example.spans == (
        ("S", 0, 9), ("NP", 0, 3), ("VP", 3, 9), ("PP", 6, 9), ("NP", 7, 9))  # fmt: skip


def test_antecedents_by_hand():
    bag = np(
        "heavy bag", "a", relative=Relative(said(CHILDREN, "need", accusative=np("bag")), "acc")
    )
    sentence = Coordination(
        said(MAN, "buy", accusative=bag),
        ("and", "und"),
        said(WOMAN, "hide", accusative=Pronoun("n", bag)),
    )
    example = example_of(sentence)
    assert example.german == (
        "Der Mann kauft eine schwere Tasche, die die Kinder brauchen, und die Frau versteckt sie."
    )
    english, german_side = example.antecedents
    assert [example.english.split()[i] for i in (english.noun, english.pronoun)] == ["bag", "it."]
    assert [example.german.split()[i] for i in (german_side.noun, german_side.pronoun)] == [
        "Tasche,",
        "sie.",
    ]
    assert example.distance == 9


def test_numbers():
    assert [NUMBERS[n] for n in (2, 12, 16, 17, 20, 30, 31, 77)] == [
        ("two", "zwei"), ("twelve", "zwölf"), ("sixteen", "sechzehn"), ("seventeen", "siebzehn"),
        ("twenty", "zwanzig"), ("thirty", "dreißig"), ("thirty-one", "einunddreißig"),
        ("seventy-seven", "siebenundsiebzig")]  # fmt: skip
    assert len({german for _, german in NUMBERS.values()}) == 98


def test_declensions_of_a_grammar_book():
    """kalter Kaffee, der kalte Kaffee, ein kalter Kaffee: all cases, genders and the plural."""
    cold = ADJECTIVES["cold"]

    def row(declension, case):
        forms = (german.adjective(cold, declension, case, gender) for gender in "mfnp")
        return " ".join(form.removeprefix("kalt") for form in forms)

    book = {
        "strong": ["er e es e", "en e es e", "em er em en", "en er en er"],
        "weak": ["e e e en", "en e e en", "en en en en", "en en en en"],
        "mixed": ["er e es en", "en e es en", "en en en en", "en en en en"],
    }
    for declension, rows in book.items():
        assert [row(declension, case) for case in ("nom", "acc", "dat", "gen")] == rows
