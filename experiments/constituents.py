"""How a parser's encoder attends within gold constituents: figure 5's claim as a number."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.ledger import Cell, Table
from transformer_jax.parser import Parser
from transformer_jax.parsing import Tree, words
from transformer_jax.parsing.treebank import sentence_of
from transformer_jax.visualization.attention import attention_lines, merge_weights

__all__ = [
    "LinkCounts", "best_head", "count_links", "draw_counts", "draw_links", "links_table",
    "smallest_constituents",
]  # fmt: skip


class LinkCounts(NamedTuple):
    """Of the strongest link of each word to another word.

    Attributes:
        within: [L, H], share in per cent that stays within the smallest constituent of several
            words around the word.
        by_distance: [L, H], what that share would be if a link knew its distance alone: the mean
            over all sentences of the share of a head's distances that stay within it.
        links: Words that were counted.
    """

    within: np.ndarray
    by_distance: np.ndarray
    links: int


def smallest_constituents(tree: Tree) -> list[tuple[int, int]]:
    """Find (first word, end) of the smallest constituent of several words around each word.

    >>> from transformer_jax.parsing import parse_brackets
    >>> tree = parse_brackets("(TOP (S (NP (DT the) (NN dog)) (VP (VBZ barks))))")
    >>> smallest_constituents(tree)
    [(0, 2), (0, 2), (0, 3)]
    """
    found: list[tuple[int, int]] = [(0, 0)] * len(words(tree))

    def walk(node: Tree, first: int) -> int:
        if node.word is not None:
            return first + 1
        end = first + len(words(node))
        if end - first > 1:
            found[first:end] = [(first, end)] * (end - first)
        place = first
        for child in node.children:
            place = walk(child, place)
        return end

    walk(tree, 0)
    return found


def strongest_links(parser: Parser, tree: Tree) -> np.ndarray:
    """Find the word, another one, that each word of a sentence is linked to, [L, H, words]."""
    maps = parser.attention(sentence_of(words(tree)), "")
    weights = merge_weights(maps.encoder, maps.source, maps.source)[..., :-1, :-1].copy()
    own = np.arange(weights.shape[-1])
    weights[..., own, own] = -1.0
    return weights.argmax(-1)


def count_links(parser: Parser, trees: Sequence[Tree]) -> LinkCounts:
    """Count strongest links of the encoder's heads in sentences of gold trees.

    Args:
        parser: A parser whose model has self-attention.
        trees: Gold trees, whose sentences the model can read at once.
    """
    places: list[tuple[int, int, int, int]] = []  # word, first and end of its constituent, length
    strongest = []
    for tree in trees:
        length, links = len(words(tree)), strongest_links(parser, tree)
        # Words of scripts without spaces would be several.
        if length > 1 and links.shape[-1] == length:
            strongest.append(links)
            around = enumerate(smallest_constituents(tree))
            places += [(word, first, end, length) for word, (first, end) in around]
    at, links = np.array(places), np.concatenate(strongest, axis=-1)  # links [L, H, N]
    word, first, end, _ = at.T
    within = 100 * ((links >= first) & (links < end)).mean(-1)
    alone = np.zeros(within.shape)
    for head in np.ndindex(*within.shape):
        alone[head] = 100 * _share_by_distance(links[head] - word, at)
    return LinkCounts(within, alone, len(at))


def _share_by_distance(distances: np.ndarray, at: np.ndarray) -> float:
    """The mean share of a head's distances, of those that a sentence has room for, that stay within
    a word's constituent.

    Args:
        distances: [N], places from each word to what it is linked to.
        at: [N, 4], each word, the first word and end of its constituent, and its sentence's length.
    """
    word, first, end, length = at.T
    most = int(length.max())
    # before[d + most] are the links of a distance less than d.
    before = np.concatenate([[0], np.cumsum(np.bincount(distances + most, minlength=2 * most))])
    inside = before[end - word + most] - before[first - word + most]
    there = before[length - word + most] - before[most - word]
    return float(np.mean(inside / np.maximum(there, 1)))


def best_head(found: LinkCounts) -> tuple[int, int]:
    """Return the layer and head, from 0, whose links have most beyond their distances."""
    return _order(found)[0]


def _order(found: LinkCounts) -> list[tuple[int, int]]:
    beyond = found.within - found.by_distance
    return [divmod(int(at), beyond.shape[1]) for at in np.argsort(-beyond, axis=None)]


def draw_counts(found: LinkCounts) -> Figure:
    """Draw every head: what its links do against what they would do by their distances alone."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for layer, (own, alone) in enumerate(zip(found.within, found.by_distance)):
        axes.plot(alone, own, "o", color=f"C{layer}", label=f"layer {layer + 1}")
    most = max(found.within.max(), found.by_distance.max()) + 3
    axes.plot([0, most], [0, most], color="0.7", zorder=0)
    axes.set(
        xlim=(0, most), ylim=(0, most), xlabel="by its distances alone, %",
        ylabel="strongest link within the constituent, %",
    )  # fmt: skip
    axes.legend(fontsize=8)
    return figure


def draw_links(parser: Parser, tree: Tree, layer: int, head: int) -> Figure:
    """Draw the strongest link of each word of a sentence in one head; both from 0."""
    labels = words(tree)
    links = np.eye(len(labels))[strongest_links(parser, tree)[layer, head]]
    title = f"strongest links, layer {layer + 1} head {head + 1}"
    return attention_lines(links[None], labels, labels, title=title)


def links_table(found: LinkCounts) -> Table:
    """List heads by what their links have beyond their distances."""
    rows: list[list[Cell]] = []
    for layer, head in _order(found):
        own, alone = float(found.within[layer, head]), float(found.by_distance[layer, head])
        rows.append([f"{layer + 1}.{head + 1}", own, alone, own - alone])
    columns = ["layer.head", "within the constituent, %", "by its distances alone, %", "beyond"]
    title = f"Strongest links of {found.links:,} words, of the encoder's heads"
    return Table(title, columns, rows, 1)
