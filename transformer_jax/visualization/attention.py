"""Attention weights as pictures, over words rather than the pieces that a model reads."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from transformer_jax.data.segmentation import is_spaceless
from transformer_jax.data.vocabulary_protocol import SPACE_SIGN
from transformer_jax.errors import UserError
from transformer_jax.results import AttentionMaps
from transformer_jax.visualization.fonts import choose_fonts

__all__ = [
    "attention_lines",
    "attention_map",
    "check_head",
    "draw_head",
    "merge_pieces",
    "merge_weights",
]

MAX_LABEL_LENGTH = 24  # letters of a word that are shown
MIN_VISIBLE_WEIGHT = 0.02  # weight of a line that can be seen
_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")


def merge_pieces(pieces: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(word, places of its pieces); a piece that begins with SentencePiece's space begins a word.

    Special tokens such as </s> stand alone, and so do all tokens of a whitespace vocabulary and
    pieces of scripts without spaces.
    Pieces that are bytes, as <0xC3>, become the characters that they spell.

    >>> merge_pieces(["\u2581A", "\u2581ba", "rn", ".", "</s>"])
    [('A', [0]), ('barn.', [1, 2, 3]), ('</s>', [4])]
    """
    spaced = any(piece.startswith(SPACE_SIGN) for piece in pieces)
    found: list[tuple[str, list[int]]] = []
    for place, piece in enumerate(pieces):
        begins = piece in ("<s>", "</s>") or piece.startswith(SPACE_SIGN)
        if not spaced or begins or not found or _meet(found, piece):
            found.append((piece.removeprefix(SPACE_SIGN), [place]))
        else:
            word, places = found[-1]
            found[-1] = (word + piece, [*places, place])
    return [(_BYTES.sub(_characters, word), places) for word, places in found] if spaced else found


def _meet(found: Sequence[tuple[str, list[int]]], piece: str) -> bool:
    """Whether a piece begins where a script without spaces may part words: not before an accent."""
    last = found[-1][0][-1:]
    return (
        last != ""
        and is_spaceless(last + piece[0])
        and not unicodedata.category(piece[0]).startswith("M")
    )


def _characters(spelled: re.Match) -> str:
    return bytes.fromhex(re.sub("<0x|>", "", spelled[0])).decode("utf-8", "replace")


def merge_weights(weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Merge weights between pieces [..., T, S] into weights between words [..., rows, columns].

    What a word gives is the mean over its pieces, what it gets is the sum: rows still sum to 1.

    Args:
        weights: [..., T, S].
        rows: The T pieces that attend.
        columns: The S pieces attended to.

    >>> pieces = ["\u2581ba", "rn", "</s>"]
    >>> merge_weights(np.full((3, 3), 1 / 3), pieces, pieces).round(2).tolist()
    [[0.67, 0.33], [0.67, 0.33]]
    """
    _check_shape(weights, rows, columns)
    gives = np.stack([weights[..., places, :].mean(-2) for _, places in merge_pieces(rows)], -2)
    return np.stack([gives[..., places].sum(-1) for _, places in merge_pieces(columns)], -1)


def attention_map(
    weights: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    marks: Iterable[tuple[int, int]] = (),
) -> Figure:
    """Draw weights [rows, columns] as a map.

    Args:
        weights: [rows, columns].
        rows: Labels of the rows.
        columns: Labels of the columns.
        title: Title of the figure.
        marks: Cells (row, column) to put a frame around.

    >>> attention_map(np.eye(2), ["a", "b"], ["a", "b"], marks=[(0, 1)]).axes[0].get_xlabel()
    'attends to'
    """
    _check_shape(weights, rows, columns)
    # Room for a title beside the bar of colours, however few the words are.
    size = (max(1.6 + 0.34 * len(columns), 1.6 + 0.07 * len(title)), 1.6 + 0.34 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="attends to", ylabel="word")
    # A dollar sign is a word like any other.
    style: dict[str, Any] = {"parse_math": False, "fontfamily": choose_fonts([*rows, *columns])}
    for axis, labels in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(range(len(labels)), map(_shortened, labels), **style)
    axes.tick_params(axis="x", labelrotation=90)
    for row, column in marks:
        cell = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="tab:red", lw=2)
        axes.add_patch(cell)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, shrink=0.7, label="attention weight")
    return figure


def attention_lines(
    weights: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Figure:
    """Draw lines from words above to those they attend to, as in the paper's figures 3 to 5.

    Args:
        weights: [N, rows, columns], a colour for each of N heads, the stronger the larger the
            weight.
        rows: Words above.
        columns: Words below.
        names: Name of each head's colour.
        title: Title of the figure.

    >>> figure = attention_lines(np.eye(2)[None], ["a", "b"], ["a", "b"])
    >>> [line.get_alpha() for line in figure.axes[0].lines]
    [1.0, 1.0]
    """
    _check_shape(weights, rows, columns)
    figure = Figure(figsize=(1.2 + 0.34 * max(len(rows), len(columns)), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for head, of_head in enumerate(weights):
        for row, of_row in enumerate(of_head):
            for column, weight in enumerate(of_row):
                if weight >= MIN_VISIBLE_WEIGHT:
                    axes.plot(
                        (row, column), (1, 0), color=f"C{head}", alpha=min(float(weight), 1.0),
                        lw=2, solid_capstyle="butt",
                    )  # fmt: skip
    style: dict[str, Any] = {"rotation": 90, "ha": "center", "fontsize": 9, "parse_math": False}
    style["fontfamily"] = choose_fonts([*rows, *columns])
    for y, labels, side in ((1.03, rows, "bottom"), (-0.03, columns, "top")):
        for x, label in enumerate(labels):
            axes.text(x, y, _shortened(label), va=side, **style)
    axes.set(xlim=(-0.6, max(len(rows), len(columns)) - 0.4), ylim=(-0.75, 1.75))
    axes.set_title(title, fontsize=10)
    axes.axis("off")
    if names:
        colours = [Line2D([], [], color=f"C{n}", lw=2, label=name) for n, name in enumerate(names)]
        figure.legend(handles=colours, loc="outside lower center", ncols=len(names), fontsize=8)
    return figure


def _check_shape(weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    wanted = (len(rows), len(columns))
    if weights.shape[-2:] != wanted:
        raise ValueError(f"the weights have shape {weights.shape}: the labels are for {wanted}")


def _shortened(word: str) -> str:
    """One that never ends would leave no room."""
    return word if len(word) <= MAX_LABEL_LENGTH else f"{word[: MAX_LABEL_LENGTH - 1]}…"


def check_head(weights: np.ndarray, layer: int, head: int | None) -> None:
    """Raise UserError unless weights [L, H, ...] have this layer and head.

    Args:
        weights: [L, H, ...].
        layer: From 1.
        head: From 1; None is no single head.

    >>> check_head(np.zeros((2, 4, 3, 3)), layer=2, head=None)
    """
    limits = (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1]))
    for name, value, count in limits:
        if value is not None and not 1 <= value <= count:
            raise UserError(f"{name} {value}: the model has {name}s 1 to {count}")


def draw_head(maps: AttentionMaps, part: str, layer: int, head: int | None = None) -> Figure:
    """Draw one head of one layer, or the mean of all heads, between words.

    Args:
        maps: The weights of a sentence pair.
        part: "encoder", "decoder" (rows are what is written, columns what has been read) or
            "cross".
        layer: From 1.
        head: From 1; None is the mean of all heads.
    """
    weights = getattr(maps, part)
    if not len(weights):
        raise UserError(f"the model has no self-attention in its {part}: choose cross")
    check_head(weights, layer, head)
    rows = maps.source if part == "encoder" else maps.target_tokens
    columns = maps.decoder_input_tokens if part == "decoder" else maps.source
    chosen = weights[layer - 1].mean(0) if head is None else weights[layer - 1, head - 1]
    which = "mean of all heads" if head is None else f"head {head}"
    return attention_map(
        merge_weights(chosen, rows, columns),
        [word for word, _ in merge_pieces(rows)],
        [word for word, _ in merge_pieces(columns)],
        title=f"{part}, layer {layer}, {which}",
    )
