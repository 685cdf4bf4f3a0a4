"""Trees as symbols and back."""

import random

import pytest

from tests.parsing.test_trees import CRAFT
from transformer_jax.errors import UserError
from transformer_jax.parsing import (
    ORDERS,
    Tree,
    clean_tree,
    delinearize,
    linearize,
    parse_brackets,
    read_trees,
)
from transformer_jax.parsing.trees import MAX_DEPTH, preterminals, words

SENTENCE = "(TOP (S (NP (DT the) (NN dog)) (VP (VBZ sees) (NP (PRP it))) (. .)))"


@pytest.mark.parametrize(
    "order, symbols",
    [
        ("tensor2tensor", "S NP DT NN /NP VP VBZ NP PRP /NP /VP . /S"),
        ("vinyals", "S NP XX XX /NP VP XX NP XX /NP /VP XX /S"),
        ("in-order", "DT NP NN /NP S VBZ VP PRP NP /NP /VP . /S"),
    ],
)
def test_symbols_of_a_sentence(order, symbols):
    tree = parse_brackets(SENTENCE)
    assert " ".join(linearize(tree, order)) == symbols
    tags = ["DT", "NN", "VBZ", "PRP", "."] if order == "vinyals" else None
    assert delinearize(symbols.split(), words(tree), order, tags) == tree
    if order == "vinyals":
        without = delinearize(symbols.split(), words(tree), order)
        assert [leaf.label for leaf in preterminals(without)] == ["XX"] * 5


def random_tree(rng, depth=0):
    if depth > 5 or (depth and rng.random() < 0.4):
        return Tree(rng.choice(["NN", "DT", ",", "/", "-LRB-"]), word=rng.choice(["a", "(", "/S"]))
    children = tuple(random_tree(rng, depth + 1) for _ in range(rng.choice([1, 1, 2, 3])))
    return Tree(rng.choice(["S", "NP", "VP"]) if depth else "TOP", children)


def count_constituents(tree):
    return (tree.word is None) + sum(map(count_constituents, tree.children))


@pytest.mark.parametrize("order", ORDERS)
def test_random_trees_come_back(order):
    rng = random.Random(0)
    for _ in range(300):
        tree = random_tree(rng)
        tags = [leaf.label for leaf in preterminals(tree)]
        symbols = linearize(tree, order)
        assert len(symbols) == len(tags) + 2 * (count_constituents(tree) - 1)
        assert delinearize(symbols, words(tree), order, tags) == tree


@pytest.mark.parametrize("order", ORDERS)
def test_every_tree_of_the_treebank_comes_back(order):
    if not CRAFT.is_dir():
        pytest.skip("no treebank-craft in TRANSFORMER_JAX_SHARED: 2,780 trees not linearised")
    for tree in read_trees(CRAFT / "val.trees"):
        tags = [leaf.label for leaf in preterminals(tree)]
        assert delinearize(linearize(tree, order), words(tree), order, tags) == tree


@pytest.mark.parametrize(
    "order, symbols, count, message",
    [
        ("tensor2tensor", "NP NN", 2, None),
        ("tensor2tensor", "NP NN /NP", 2, "2 words, but the symbols are for 1"),
        ("tensor2tensor", "NP NN NN /NP", 1, "symbol 2, 'NN', has no word: there are 1"),
        ("tensor2tensor", "NN /NP", 1, "/NP closes a constituent that is not opened"),
        ("tensor2tensor", "NP NN /VP", 2, "/VP closes a constituent that is not opened"),
        ("tensor2tensor", "", 0, "no symbols: a tree has a word"),
        ("in-order", "NP NN /NP", 1, "/NP closes a constituent that is not opened"),
        ("in-order", "NN /NP", 1, "/NP closes a constituent that is not opened"),
        ("bottom-up", "NN", 1, "order 'bottom-up' is unknown; known: tensor2tensor, vinyals, in-o"),
    ],
)
def test_symbols_that_are_no_tree(order, symbols, count, message):
    if message is None:  # NP may be a tag
        assert len(list(preterminals(delinearize(symbols.split(), ["a"] * count, order)))) == count
        return
    with pytest.raises(UserError) as told:
        delinearize(symbols.split(), ["a"] * count, order)
    assert message in str(told.value)


def test_trees_that_symbols_cannot_tell_apart_are_refused():
    tree = parse_brackets("(TOP (P (X (X x) (A a))))")
    other = parse_brackets("(TOP (P (X x) (X (A a))))")
    assert linearize(other) == ["P", "X", "X", "A", "/X", "/P"]
    assert linearize(other, "in-order") != linearize(tree, "in-order")
    with pytest.raises(UserError, match="uses a label as a tag, too, or as /LABEL: rename it"):
        linearize(tree)
    assert linearize(tree, "vinyals") == ["P", "X", "XX", "XX", "/X", "/P"]
    with pytest.raises(UserError, match="rename it"):
        linearize(parse_brackets("(TOP (S (/S a)))"))
    with pytest.raises(UserError, match="a tree whose root is 'S', not TOP: clean it first"):
        linearize(parse_brackets("(S (NN a))"))
    with pytest.raises(UserError, match="1 tags for 2 words"):
        delinearize(["NN", "NN"], ["a", "b"], tags=["NN"])


def test_deepest_tree_that_is_read_is_linearized():
    depth = MAX_DEPTH - 3
    tree = clean_tree(parse_brackets("(TOP " + "(X " * depth + "(NN a)" + ")" * (depth + 1)))
    for order in ORDERS:
        assert len(linearize(tree, order)) == 2 * depth + 1
