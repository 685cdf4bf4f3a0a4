"""The lexicon against sources that were made by others: Wiktionary's nouns, ablaut's verbs."""

import csv
from collections import Counter, defaultdict

import ablaut
import pytest

from transformer_jax.data.grammar import german
from transformer_jax.data.grammar.lexicon import load_lexicon

LEXICON = load_lexicon()
# Forms on which the source is wrong or prefers the other of two: see any English dictionary.
ENGLISH_OTHERWISE = {
    "wake": ("woke", "woken"),
    "show": ("showed", "shown"),
}


@pytest.fixture(scope="module")
def wiktionary():
    """Lemma -> its rows; a row maps a paradigm's cell to its spellings."""
    config = pytest.importorskip(
        "german_nouns.config", reason="german-nouns does not install on Python 3.13"
    )
    rows = defaultdict(list)
    wanted = {noun.german for noun in LEXICON.nouns}
    with open(config.CSV_FILE_PATH, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["lemma"] in wanted:
                cells = defaultdict(set)
                for name, value in row.items():
                    cells[name.rstrip(" 1234*")].add(value)
                rows[row["lemma"]].append(cells)
    return rows


@pytest.mark.parametrize("noun", LEXICON.nouns, ids=lambda noun: noun.german)
def test_nouns_agree_with_wiktionary(noun, wiktionary):
    names = {"nom": "nominativ", "acc": "akkusativ", "dat": "dativ", "gen": "genitiv"}

    def agrees(row):
        return noun.gender in row["genus"] and all(
            german.noun(noun, case, plural) in row[f"{name} {'plural' if plural else 'singular'}"]
            for case, name in names.items()
            for plural in (False, True)
        )

    assert any(agrees(row) for row in wiktionary[noun.german])


@pytest.mark.parametrize("verb", LEXICON.verbs, ids=lambda verb: german.infinitive(verb))
def test_verbs_agree_with_ablaut(verb):
    table = ablaut.conjugate(german.infinitive(verb))
    particle = f" {verb.particle}" if verb.particle else ""
    for tense, row in (("present", table.present), ("past", table.preterite)):
        for person, place in (("ich", 0), ("er", 2), ("wir", 3), ("wir", 5)):
            assert german.finite(verb, tense, person) + particle == row[place]
    assert german.participle(verb) == table.past_participle
    assert verb.auxiliary in str(table.auxiliary)


@pytest.mark.parametrize(
    "name", ["sein", "haben", "können", "müssen", "wollen", "dürfen", "sollen"]
)
def test_auxiliaries_and_modals(name):
    table = ablaut.conjugate(name)
    for tense, row in (("present", table.present), ("past", table.preterite)):
        for person, place in (("ich", 0), ("er", 2), ("wir", 3), ("wir", 5)):
            assert german.finite(name, tense, person) == row[place]


@pytest.mark.parametrize("verb", LEXICON.verbs, ids=lambda verb: verb.base)
def test_english_verbs(verb):
    base, *particle = verb.base.split()
    table = ablaut.conjugate(base, lang="eng")
    past, participle = ENGLISH_OTHERWISE.get(base, (table.past, table.past_participle))
    expected = [table.third_singular, past, participle]
    assert [verb.third, verb.past, verb.participle] == [" ".join([f, *particle]) for f in expected]


def test_english_forms_belong_to_one_entry():
    """Or an English sentence could have two Germans."""
    forms = Counter()
    for noun in LEXICON.nouns:
        forms.update({noun.singular, noun.plural})
        assert noun.singular != noun.plural
    for adjective in LEXICON.adjectives:
        forms.update({adjective.english, adjective.english_comparative} - {None})
    for verb in LEXICON.verbs:
        forms.update({verb.base, verb.third, verb.past, verb.participle})
        assert verb.past != verb.base, "present and past plural would be one"
    assert [form for form, count in forms.items() if count > 1] == []


def test_german_words_translate_one_english_word():
    for words in (
        [noun.german for noun in LEXICON.nouns],
        [adjective.german for adjective in LEXICON.adjectives],
        [german.infinitive(verb) for verb in LEXICON.verbs],
    ):
        assert len(set(words)) == len(words)


def test_noun_classes_have_members_of_each_gender():
    kinds = {noun.kind for noun in LEXICON.nouns}
    for kind in kinds:
        assert {noun.gender for noun in LEXICON.nouns if noun.kind == kind} == set("mfn") or (
            kind == "animal"  # German has few neuter animals
        )
    used = {k for a in LEXICON.adjectives for k in a.kinds}
    used |= {k for v in LEXICON.verbs for k in v.subjects | v.objects}
    assert used == kinds
