"""The parser accepts what the grammar writes and refuses one fault at a time."""

import random

import pytest

from transformer_jax.data.grammar import german
from transformer_jax.data.grammar.agreement import is_grammatical
from transformer_jax.data.grammar.corpus import SPLITS, examples

RIGHT_AND_WRONG = [
    ("article's case", "Der Mann sieht den Hund.", "Der Mann sieht der Hund."),
    ("article's gender", "Die Frau kauft das Buch.", "Die Frau kauft den Buch."),
    ("weak noun", "Wir grüßen den Nachbarn.", "Wir grüßen den Nachbar."),
    ("strong ending", "Alte Männer schlafen.", "Alten Männer schlafen."),
    ("weak ending", "Der alte Mann schläft.", "Der alter Mann schläft."),
    ("mixed ending", "Ein alter Mann schläft.", "Ein alte Mann schläft."),
    ("second adjective", "Eine alte, kluge Frau lacht.", "Eine alte, kluger Frau lacht."),
    ("possessive", "Sie liebt ihren Vater.", "Sie liebt ihr Vater."),
    ("dative plural", "Wir helfen den Kindern.", "Wir helfen den Kinder."),
    ("governed case", "Ich danke dem Gast.", "Ich danke den Gast."),
    ("person of the verb", "Die Kinder lachen.", "Die Kinder lacht."),
    ("person of the verb", "Ich lache.", "Ich lacht."),
    ("auxiliary", "Er ist eingeschlafen.", "Er hat eingeschlafen."),
    ("auxiliary", "Er hat geschlafen.", "Er ist geschlafen."),
    ("auxiliary's tense", "Er hat gelacht.", "Er hatte gelacht."),
    ("missing particle", "Der Mann steht auf.", "Der Mann steht."),
    ("particle not joined", "Sie lacht, weil er aufsteht.", "Sie lacht, weil er steht auf."),
    ("verb second", "Gestern lachte der Mann.", "Gestern der Mann lachte."),
    ("verb last", "Er lacht, weil sie singt.", "Er lacht, weil singt sie."),
    ("modal last", "Er lacht, weil sie singen kann.", "Er lacht, weil sie kann singen."),
    ("infinitive", "Er kann singen.", "Er kann singt."),
    ("relative's gender", "Der Mann, der lacht, singt.", "Der Mann, das lacht, singt."),
    ("relative's case", "Der Mann, dem ich helfe, singt.", "Der Mann, den ich helfe, singt."),
    (
        "relative's number",
        "Die Frauen, denen ich helfe, singen.",
        "Die Frauen, der ich helfe, singen.",
    ),
    (
        "owner's gender",
        "Der Mann, dessen Hut alt ist, lacht.",
        "Der Mann, deren Hut alt ist, lacht.",
    ),
    ("comma", "Der Mann, der lacht, singt.", "Der Mann, der lacht singt."),
    ("rest or motion", "Er wohnt in der Stadt.", "Er wohnt in die Stadt."),
    ("rest or motion", "Er geht in die Stadt.", "Er geht in der Stadt."),
    ("contraction's gender", "Er wohnt im Haus.", "Er wohnt im Stadt."),
    ("preposition's case", "Er geht durch den Wald.", "Er geht durch dem Wald."),
    ("genitive", "Er sieht den Hut des Mannes.", "Er sieht den Hut dem Mannes."),
    ("no object", "Er kauft ein Brot.", "Er kauft."),
    ("an object too many", "Er schläft.", "Er schläft ein Brot."),
    ("predicate without ending", "Der Mann ist alt.", "Der Mann ist alter."),
    ("comparison", "Die Frau ist älter als der Mann.", "Die Frau ist älter wie der Mann."),
    ("numeral with singular", "Ich sehe zwei Hunde.", "Ich sehe zwei Hund."),
    ("pronoun's case", "Ich sehe ihn.", "Ich sehe ihm."),
    ("spelling", "Der Mann lacht.", "Der Man lacht."),
    ("capital", "Der Mann lacht.", "der Mann lacht."),
    ("full stop", "Der Mann lacht.", "Der Mann lacht"),
]


@pytest.mark.parametrize(("fault", "right", "wrong"), RIGHT_AND_WRONG)
def test_parser_rejects_single_faults(fault, right, wrong):
    assert is_grammatical(right)
    assert not is_grammatical(wrong)


@pytest.mark.parametrize("split", SPLITS)
def test_parser_accepts_generated_sentences(split):
    refused = [x.german for x in examples(split, 300, seed=9) if not is_grammatical(x.german)]
    assert refused == []


@pytest.mark.slow
def test_parser_accepts_20_000_sentences():
    refused = [x.german for x in examples("train", 20_000, seed=11) if not is_grammatical(x.german)]
    assert refused == []


def test_parser_rejects_exchanged_articles():
    """Another form of an article makes nearly every sentence wrong; few have two readings."""
    rng = random.Random(0)
    stems = [["der", "die", "das", "den", "dem", "des"]]
    for stem in ("ein", "kein", "mein", "sein", "ihr", "unser"):
        forms = {
            german.indefinite(stem, case, g) for case in ("nom", "acc", "dat", "gen") for g in "mfn"
        }
        stems.append(sorted(forms))
    tried = accepted = 0
    for example in examples("train", 400, seed=13):
        tokens = example.german.split()
        for place, token in enumerate(tokens):
            for forms in stems:
                if token in forms:
                    other = rng.choice([form for form in forms if form != token])
                    tried += 1
                    accepted += is_grammatical(
                        " ".join([*tokens[:place], other, *tokens[place + 1 :]])
                    )
    assert tried > 300
    assert accepted / tried < 0.05
