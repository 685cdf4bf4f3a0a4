"""Attention weights as pictures, over words rather than the pieces that a model reads."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from transformer_jax.errors import UserError
from transformer_jax.translator import Attention

__all__ = ["attention_map", "by_word", "draw", "words"]

LONGEST = 24  # letters of a word that are shown
SPACE = "\u2581"  # SentencePiece's sign for the space before a word


def words(pieces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(word, places of its pieces); a piece that begins with SentencePiece's space begins a word.

    Special tokens such as </s> stand alone, and so do all tokens of a whitespace vocabulary.

    >>> words(["\u2581A", "\u2581ba", "rn", ".", "</s>"])
    [('A', [0]), ('barn.', [1, 2, 3]), ('</s>', [4])]
    """
    spaced = any(piece.startswith(SPACE) for piece in pieces)
    found: list[tuple[str, list[int]]] = []
    for place, piece in enumerate(pieces):
        special = piece in ("<s>", "</s>")
        if not spaced or special or piece.startswith(SPACE) or not found:
            found.append((piece.removeprefix(SPACE), [place]))
        else:
            word, places = found[-1]
            found[-1] = (word + piece, [*places, place])
    return found


def by_word(weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Weights [..., T, S] between pieces as [..., rows, columns] between words.

    What a word gives is the mean over its pieces, what it gets the sum: rows still sum to 1.

    >>> pieces = ["\u2581ba", "rn", "</s>"]
    >>> by_word(np.full((3, 3), 1 / 3), pieces, pieces).round(2).tolist()
    [[0.67, 0.33], [0.67, 0.33]]
    """
    gives = np.stack([weights[..., places, :].mean(-2) for _, places in words(rows)], -2)
    return np.stack([gives[..., places].sum(-1) for _, places in words(columns)], -1)


def attention_map(
    weights: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    marks: Iterable[tuple[int, int]] = (),
) -> Figure:
    """A picture of weights [rows, columns]; `marks` are cells to put a frame around.

    >>> attention_map(np.eye(2), ["a", "b"], ["a", "b"], marks=[(0, 1)]).axes[0].get_xlabel()
    'attends to'
    """
    size = (1.6 + 0.34 * len(columns), 1.6 + 0.34 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="attends to", ylabel="word")
    for axis, labels in ((axes.xaxis, columns), (axes.yaxis, rows)):
        # A dollar sign is a word like any other; one that never ends would leave no room.
        shown = [w if len(w) <= LONGEST else f"{w[: LONGEST - 1]}…" for w in labels]
        axis.set_ticks(range(len(labels)), shown, parse_math=False)
    axes.tick_params(axis="x", labelrotation=90)
    for row, column in marks:
        cell = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="tab:red", lw=2)
        axes.add_patch(cell)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, shrink=0.7, label="attention weight")
    return figure


def draw(seen: Attention, part: str, layer: int, head: int | None = None) -> Figure:
    """One head of one layer, both counted from 1, or the mean of all heads, between words.

    part    "encoder", "decoder" (rows are what is written, columns what was read) or "cross"
    """
    weights = getattr(seen, part)
    heads = range(1, weights.shape[1] + 1)
    for name, value, count in (("layer", layer, len(weights)), ("head", head, len(heads))):
        if value is not None and not 1 <= value <= count:
            raise UserError(f"{name} {value}: the model has {name}s 1 to {count}")
    rows = seen.source if part == "encoder" else seen.target_written
    columns = seen.target_read if part == "decoder" else seen.source
    chosen = weights[layer - 1].mean(0) if head is None else weights[layer - 1, head - 1]
    which = "mean of all heads" if head is None else f"head {head}"
    return attention_map(
        by_word(chosen, rows, columns),
        [word for word, _ in words(rows)],
        [word for word, _ in words(columns)],
        title=f"{part}, layer {layer}, {which}",
    )
