"""Properties of the sentences that are drawn: splits, annotations, one German for an English."""

from collections import Counter

import pytest

from transformer_jax.data.grammar import corpus
from transformer_jax.data.grammar.corpus import SPLITS, examples, split_of, stream
from transformer_jax.data.grammar.lexicon import load_lexicon

GENDERS = {
    form: noun.gender for noun in load_lexicon().nouns for form in (noun.german, noun.genitive)
}
TAGS = {
    "weak-adjective", "mixed-adjective", "strong-adjective", "possessive", "weak-noun",
    "dative-plural", "contraction", "genitive", "inversion", "verb-final", "separable", "modal",
    "perfect-haben", "perfect-sein", "relative", "relative-denen", "relative-dessen",
    "subordinate", "that-clause", "nicht", "kein", "comparative", "two-way-dative",
    "two-way-accusative", "number", "pronoun", "dative-object", "ditransitive", "equative",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    found = {split: [] for split in SPLITS}
    examples = stream()
    while min(map(len, found.values())) < 300:
        split, example = next(examples)
        found[split].append(example)
    return {split: examples[:300] for split, examples in found.items()}


def test_examples_repeat_with_their_seed(drawn):
    assert list(examples("test", 50)) == drawn["test"][:50]
    assert list(examples("test", 50, seed=1)) != drawn["test"][:50]
    with pytest.raises(ValueError, match="split 'dev' is not one of train, validation"):
        next(examples("dev", 1))


def test_splits_are_disjoint_and_complete(drawn):
    train = drawn["train"] + drawn["validation"] + drawn["test"]
    sentences = [example.english for split in SPLITS for example in drawn[split]]
    assert len(set(sentences)) == len(sentences)
    seen = {pair for example in train for pair in example.pairs}
    assert max(example.length for example in train) < min(x.length for x in drawn["length"])
    assert max(example.distance for example in train) < min(x.distance for x in drawn["distance"])
    for example in drawn["compositional"]:
        assert any(corpus._is_held_out(pair) for pair in example.pairs)
        assert not example.pairs <= seen
    # Each of the three differs from training in its own way only.
    assert all(example.length <= corpus.MAX_LENGTH for example in drawn["distance"])
    assert all(example.distance <= corpus.MAX_DISTANCE for example in drawn["length"])


def test_phenomena_are_common(drawn):
    counts = Counter(tag for example in drawn["train"] + drawn["test"] for tag in example.tags)
    assert set(counts) == TAGS
    assert min(counts.values()) >= 5


def test_annotations_point_at_words(drawn):
    for example in (example for split in SPLITS for example in drawn[split]):
        english, german = example.english.split(), example.german.split()
        aligned = {i for i, _ in example.alignment}, {j for _, j in example.alignment}
        assert max(aligned[0]) < len(english)
        assert max(aligned[1]) < len(german)
        # English "to" before a recipient is all that has no German.
        alone = {english[i].strip(".,") for i in set(range(len(english))) - aligned[0]}
        assert alone <= {"to"}
        assert aligned[1] == set(range(len(german)))
        assert example.spans[0] == ("S", 0, len(english))
        for _, start, end in example.spans:
            assert 0 <= start < end <= len(english)


def test_pronoun_has_one_antecedent_of_its_gender(drawn):
    """The nouns are looked up by their written form, the pronoun is read from the sentence."""
    pronouns = {"er": "m", "ihn": "m", "ihm": "m", "sie": "f", "es": "n"}
    inanimate = {
        noun.singular for noun in load_lexicon().nouns if noun.kind not in ("human", "animal")
    }
    animals = {noun.singular for noun in load_lexicon().nouns if noun.kind == "animal"}
    genders = Counter()
    for example in (example for split in SPLITS for example in drawn[split] if example.antecedents):
        english, german = example.antecedents
        words = [word.strip(".,") for word in example.german.split()]
        gender = GENDERS[words[german.noun]]
        assert pronouns[words[german.pronoun]] == gender
        genders[gender] += 1
        plain = [word.strip(".,").lower() for word in example.english.split()]
        assert plain[english.pronoun] == "it"
        assert plain.count("it") == 1
        assert [word for word in plain if word in inanimate] == [plain[english.noun]]
        assert not animals & set(plain)
    assert min(genders.values()) > 50


def one_german_each(count):
    germans = {}
    for split, share in (("train", 0.7), ("compositional", 0.15), ("length", 0.15)):
        for example in examples(split, int(count * share), seed=3):
            assert germans.setdefault(example.english, example.german) == example.german
    return germans


def test_translation_is_unique():
    assert len(one_german_each(4000)) == 4000


@pytest.mark.slow
def test_translation_is_unique_in_200_000_sentences():
    import random

    from transformer_jax.data.grammar.corpus import example_of
    from transformer_jax.data.grammar.sampling import Sampler

    sampler, germans = Sampler(random.Random(5)), {}
    for _ in range(200_000):
        example = example_of(sampler.sentence())
        assert germans.setdefault(example.english, example.german) == example.german
    assert len(germans) > 190_000


def test_split_depends_on_the_example_alone(drawn):
    for split, some in drawn.items():
        assert {split_of(example) for example in some} == {split}
