"""A phrase-structure tree as a picture."""

from typing import Any

from matplotlib.figure import Figure

from transformer_jax.parsing.trees import Tree, words
from transformer_jax.visualization.fonts import choose_fonts

__all__ = ["draw_tree"]

# Inches of a character, of a word's least width, and of a level.
CHARACTER, GAP, LEVEL = 0.085, 0.18, 0.42


def draw_tree(tree: Tree) -> Figure:
    """Draw a tree: words in a row, each constituent above the middle of its parts.

    Args:
        tree: The tree.

    >>> from transformer_jax.parsing.trees import parse_brackets
    >>> figure = draw_tree(parse_brackets("(TOP (NP (DT the) (NN dog)))"))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['TOP', 'NP', 'DT', 'the', 'NN', 'dog']
    """
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    style: dict[str, Any] = {
        "ha": "center", "va": "center", "fontsize": 10, "family": choose_fonts(words(tree)),
        "parse_math": False,  # which dollar signs would begin
    }  # fmt: skip
    places: list[float] = []  # the right ends of the words so far
    bottom = -_height(tree)

    def draw(node: Tree, level: int) -> float:
        """Draw what is below a node, the node, and return its place."""
        y = -level
        label = axes.text(0, y, node.label, color="tab:blue", **style)
        if node.word is not None:
            width = max(len(node.word), len(node.label)) * CHARACTER + GAP
            x = (places[-1] if places else 0.0) + width / 2
            places.append(x + width / 2)
            axes.plot([x, x], [y - 0.25, bottom + 0.25], color="0.8", linewidth=0.8, zorder=0)
            axes.text(x, bottom, node.word, **style)
        else:
            below = [draw(child, level + 1) for child in node.children]
            x = (below[0] + below[-1]) / 2
            for place in below:
                axes.plot([x, place], [y - 0.25, y - 0.75], color="0.5", linewidth=0.8, zorder=0)
        label.set_x(x)
        return x

    draw(tree, 0)
    axes.set(xlim=(-GAP / 2, places[-1] + GAP / 2), ylim=(bottom - 0.5, 0.5))
    figure.set_size_inches(max(places[-1], 1.0), (1 - bottom) * LEVEL)
    return figure


def _height(tree: Tree) -> int:
    return 1 + max(map(_height, tree.children), default=0)
