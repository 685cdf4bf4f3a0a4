"""What a constrained search can write is exactly the trees over the words."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.parsing import ORDERS, delinearize
from transformer_jax.parsing.constraint import (
    advance,
    allowed_symbols,
    make_grammar,
    start_state,
)
from transformer_jax.parsing.trees import words as words_of

SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
SYMBOLS = [*SPECIAL, "NN", "DT", "S", "NP", "/NP", "/S", "/"]


def grammar_for(order):
    symbols = [*SPECIAL, "XX", *SYMBOLS[6:10]] if order == "vinyals" else SYMBOLS
    return symbols, make_grammar(symbols[4:], order, first=4)


@pytest.mark.parametrize("order", ORDERS)
def test_exactly_the_trees_can_be_written(order):
    """All sequences of one label up to a length, by brute force."""
    symbols = ["<pad>", "</s>", "NN", "NP", "/NP"]
    grammar = make_grammar(symbols[2:], order)
    limit, count = 7, 2
    step = jax.jit(lambda state, symbol: advance(grammar, state, symbol))
    allowed = jax.jit(lambda state: allowed_symbols(grammar, state)[0])

    def written(state, before):
        mask = np.asarray(allowed(state))
        assert mask.any()
        for symbol in np.flatnonzero(mask):
            if symbol == 1:
                yield tuple(before)
            else:
                following = step(state, jnp.array([symbol]))
                yield from written(following, [*before, symbols[symbol]])

    found = list(written(start_state(jnp.array([count]), jnp.array([limit])), []))
    expected = set()
    for length in range(1, limit):
        for sequence in itertools.product(symbols[2:], repeat=length):
            try:
                tree = delinearize(sequence, ["a"] * count, order)
            except UserError:
                continue
            # NP could be a tag by itself; here it is a label alone.
            if str(tree).count("NN") == count == sequence.count("NN"):
                expected.add(sequence)
    assert len(found) == len(set(found)) and set(found) == expected and len(found) > 5


@pytest.mark.parametrize("order", ORDERS)
def test_random_choices_always_end_in_a_tree(order):
    symbols, grammar = grammar_for(order)
    rng = np.random.default_rng(0)
    count = jnp.array([1, 2, 5, 9, 9, 9])
    # Of both parities: each constituent adds two symbols.
    limits = jnp.array([2, 8, 7, 40, 13, 300])
    step = jax.jit(lambda state, symbol: advance(grammar, state, symbol))
    allowed = jax.jit(lambda state: allowed_symbols(grammar, state))
    for _ in range(5):
        state = step(start_state(count, limits), jnp.zeros(6, jnp.int32))  # the start symbol
        rows = [[] for _ in count]
        for _ in range(300):
            mask = np.asarray(allowed(state))
            chosen = []
            for row, may in zip(rows, mask):
                if row and row[-1] == 1:
                    chosen.append(0)
                    continue
                chosen.append(int(rng.choice(np.flatnonzero(may))))
                row.append(chosen[-1])
            state = step(state, jnp.array(chosen))
        for row, words, limit in zip(rows, count.tolist(), limits.tolist()):
            assert row[-1] == 1 and len(row) <= limit
            tree = delinearize([symbols[n] for n in row[:-1]], ["a"] * words, order)
            assert len(words_of(tree)) == words


def test_symbols_that_can_do_nothing_are_never_written():
    """Special symbols have no meaning here; a stroke alone is the tag of a word."""
    _, grammar = grammar_for("tensor2tensor")
    assert [SYMBOLS[n] for n, kind in enumerate(grammar.kinds) if kind == 0] == [
        "<pad>", "<unk>", "<s>",
    ]  # fmt: skip
    state = start_state(jnp.array([1]), jnp.array([2]))
    may = np.flatnonzero(allowed_symbols(grammar, state)[0])
    assert [SYMBOLS[n] for n in may] == ["NN", "DT", "/"]
    with pytest.raises(UserError, match="no symbol of the vocabulary is a tag"):
        make_grammar(["S", "/S"], "in-order")


def test_constituents_are_open_to_a_depth_alone():
    _, grammar = grammar_for("tensor2tensor")
    state = start_state(jnp.array([1]), jnp.array([1000]))
    for _ in range(64):
        assert allowed_symbols(grammar, state)[0, 6]
        state = advance(grammar, state, jnp.array([6]))
    assert np.flatnonzero(allowed_symbols(grammar, state)[0]).tolist() == [4, 5, 10]
