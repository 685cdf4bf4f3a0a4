"""Attention of one sentence pair as a page to look around in, which needs no network."""

import html
import json
from importlib import resources

from transformer_jax.results import AttentionMaps
from transformer_jax.visualization.attention import merge_pieces, merge_weights

__all__ = ["attention_page"]

# Part -> its name on the page, and the sides that ask and answer.
PARTS = {
    "encoder": ("encoder, to the source", "source", "source"),
    "cross": ("decoder, to the source", "target_tokens", "source"),
    "decoder": ("decoder, to what it has written", "target_tokens", "decoder_input_tokens"),
}


def attention_page(maps: AttentionMaps) -> str:
    """HTML with every layer and head of a sentence pair, by word, in one file.

    Weights are rounded to ten-thousandths. Text reaches the page as text, whatever is in it.

    >>> import numpy as np
    >>> half = np.full((1, 1, 2, 2), 0.5)
    >>> maps = AttentionMaps(["a", "</s>"], ["<s>", "b"], ["b", "</s>"], half, half, half)
    >>> "a ⟶ b" in attention_page(maps)
    True
    """
    data = {}
    for name, (title, asking, answering) in PARTS.items():
        if not len(getattr(maps, name)):
            continue  # a recurrent network has attention to the source alone
        rows, columns = getattr(maps, asking), getattr(maps, answering)
        weights = merge_weights(getattr(maps, name), rows, columns)
        data[name] = {
            "title": title,
            "rows": [word for word, _ in merge_pieces(rows)],
            "columns": [word for word, _ in merge_pieces(columns)],
            "weights": (weights * 10_000).round().astype(int).tolist(),
        }
    sides = (
        " ".join(word for word, _ in merge_pieces(side)[:-1])
        for side in (maps.source, maps.target_tokens)
    )
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # A "<" in the data would let a word end the script that holds it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    # Both places are found before either is filled: a word may look like one.
    head, _, rest = page.partition("{{title}}")
    middle, _, end = rest.partition("{{data}}")
    return "".join((head, html.escape(" ⟶ ".join(sides)), middle, text, end))
