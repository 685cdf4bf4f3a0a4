"""Searches of a constrained model write trees over the words, and the likeliest of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import ModelConfig, Transformer, generate
from transformer_jax.data.vocabulary import (
    SentencePieceVocabulary,
    Vocabularies,
    WhitespaceVocabulary,
)
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.parsing import ORDERS, delinearize
from transformer_jax.parsing.constrained import constrain_model
from transformer_jax.parsing.wrapper import find_word_starts

SYMBOLS = {"vinyals": "S NP XX /NP /S"}
USUAL = "S NP NN VB /NP /S"


def vocabularies_of(order):
    words = WhitespaceVocabulary.train(["a b c d e"], 50)
    symbols = WhitespaceVocabulary.train([SYMBOLS.get(order, USUAL)], 50)
    return Vocabularies(words, symbols)


def model_of(both, seed=0, **fields):
    """A model that prefers anything but trees: its parameters are large and random."""
    config = ModelConfig(
        vocab_size=len(both.source), target_vocab_size=len(both.target), tied_embeddings="decoder",
        d_model=16, d_ff=16, num_heads=2, num_layers=1, dropout=0.0, **fields,
    )  # fmt: skip
    model = Transformer(config)
    tokens = jnp.ones((1, 2), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(seed), tokens, tokens)
    return model, jax.tree.map(lambda leaf: leaf * 2, variables)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "search",
    [
        Search(method="greedy", extra_length=9),
        Search(beam_size=1, extra_length=9),
        Search(beam_size=4, n_best=4, alpha=0.3, extra_length=9),
        Search(beam_size=3, eos_rule="t2t", extra_length=9),
        Search(method="sample", n_best=3, extra_length=9),
    ],
    ids=["greedy", "beam 1", "beam 4", "t2t", "samples"],
)
def test_every_output_is_a_tree_over_the_words(order, search):
    both = vocabularies_of(order)
    model, variables = model_of(both)
    decoder = BatchDecoder(
        model, variables, searched=lambda _: constrain_model(model, both, order, 9)
    )
    free = BatchDecoder(model, variables)
    rng = np.random.default_rng(0)
    sources = [rng.integers(4, 9, size=n).tolist() for n in (1, 2, 3, 5, 8, 13, 1, 4)]
    found = decoder.translate(sources, search)
    for source, hypotheses in zip(sources, found):
        assert hypotheses
        for hypothesis in hypotheses:
            symbols = both.target.tokens(hypothesis.ids)
            delinearize(symbols, ["w"] * len(source), order)  # raises for what is no tree
        # Log-probabilities are the model's over all symbols: a constraint does not change them.
        ids = [hypothesis.ids for hypothesis in hypotheses]
        scored = free.score([source] * len(ids), ids)
        expected = [hypothesis.log_prob for hypothesis in hypotheses]
        np.testing.assert_allclose([s.sum() for s in scored], expected, rtol=1e-4)
    malformed = 0
    for source, [best, *_] in zip(sources, free.translate(sources, search)):
        try:
            delinearize(both.target.tokens(best.ids), ["w"] * len(source), order)
        except UserError:
            malformed += 1
    assert malformed > len(sources) // 2  # without the constraint


@pytest.mark.parametrize("order", ORDERS)
def test_wide_beam_finds_the_likeliest_trees(order):
    """Of all sequences of symbols that are trees over two words, by brute force."""
    both = vocabularies_of(order)
    model, variables = model_of(both, seed=3)
    extra = 4
    source, limit = [5, 7], 2 + extra
    trees = []
    for length in range(2, limit):
        for ids in itertools.product(range(4, len(both.target)), repeat=length):
            symbols = both.target.tokens(ids)
            tags = sum(symbol in ("NN", "VB", "XX") for symbol in symbols)
            try:
                delinearize(symbols, ["w"] * 2, order)
            except UserError:
                continue
            if tags == 2:  # a label alone may stand for a tag, and here it is none
                trees.append(list(ids))
    scores = [
        each.sum() for each in BatchDecoder(model, variables).score([source] * len(trees), trees)
    ]
    best = sorted(range(len(trees)), key=lambda i: -scores[i])[:7]
    constrained = constrain_model(model, both, order, extra)
    search = Search(beam_size=64, n_best=7, length_penalty="none", extra_length=extra)
    [found] = BatchDecoder(model, variables, searched=lambda _: constrained).translate(
        [source], search
    )
    assert [hypothesis.ids for hypothesis in found] == [trees[i] for i in best]
    expected = [scores[i] for i in best]
    np.testing.assert_allclose([each.log_prob for each in found], expected, rtol=1e-5)
    # The same search on one batch to its end.
    ends = {"limits": jnp.array([limit])}
    again = generate(constrained, variables["params"], jnp.array([[*source, 1]]), search, **ends)
    np.testing.assert_allclose(again.log_probs[0], expected, rtol=1e-5)


def test_trees_end_where_the_positions_of_a_model_do():
    both = vocabularies_of("tensor2tensor")
    config = ModelConfig(
        vocab_size=len(both.source), target_vocab_size=len(both.target), tied_embeddings="decoder",
        d_model=16, d_ff=16, num_heads=2, num_layers=1, position_encoding="learned",
        max_positions=16,
    )  # fmt: skip
    model = Transformer(config)
    tokens = jnp.ones((1, 2), jnp.int32)
    init = jax.jit(model.init)
    constrained = constrain_model(model, both, "tensor2tensor", 300)
    decoder = BatchDecoder(model, None, searched=lambda _: constrained)
    source = [5, 6, 7, 8, 5, 6, 7, 8]
    longest = 0
    for seed in range(8):  # some of which would rather open another constituent
        decoder.variables = init(jax.random.key(seed), tokens, tokens)
        for search in (Search(method="greedy", extra_length=300), Search(extra_length=300)):
            [[found]] = decoder.translate([source], search)
            longest = max(longest, len(found.ids))
            delinearize(both.target.tokens(found.ids), ["w"] * 8)
    assert longest in (14, 15)  # as many symbols as there are positions but for the end


def test_words_are_counted_by_their_first_pieces():
    lines = ["the dog sees a cat .", "dogs bark -LRB- loudly -RRB- , do n't they ?", "α β–γ 2.5 %"]
    vocabulary = SentencePieceVocabulary.train(lines, 340, "bpe")
    starts = find_word_starts(vocabulary)
    # Letters and signs that the vocabulary has never seen are bytes.
    for line in [*lines, "word 漢字 x🙂y Ω ' '' `` -- _", "a"]:
        assert sum(starts[number] for number in vocabulary.encode(line)) == len(line.split())


def test_words_of_a_whitespace_vocabulary_are_its_tokens():
    vocabulary = WhitespaceVocabulary.train(["a b"], 10)
    starts = find_word_starts(vocabulary)
    assert sum(starts[number] for number in [*vocabulary.encode("a unknown b"), 1, 0]) == 3
