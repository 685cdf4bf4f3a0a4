"""Pictures hold the numbers that they are made from."""

import io
import json

import numpy as np
import pytest
from matplotlib.image import imread

from transformer_jax.visualization.attention import (
    attention_lines,
    attention_map,
    merge_pieces,
    merge_weights,
)
from transformer_jax.visualization.curves import learning_curve


def test_merge_pieces():
    assert merge_pieces(["▁The", "▁", "Bä", "r,", "▁", "▁x", "</s>"]) == [
        ("The", [0]), ("Bär,", [1, 2, 3]), ("", [4]), ("x", [5]), ("</s>", [6]),
    ]  # fmt: skip
    assert [word for word, _ in merge_pieces(["<s>", "▁a", "b"])] == ["<s>", "ab"]
    # Characters that no piece has are spelled in bytes.
    assert merge_pieces(["▁x", "<0xC3>", "<0xA4>", "▁", "<0x3C>", "<0xFF>"]) == [
        ("xä", [0, 1, 2]), ("<\ufffd", [3, 4, 5]),
    ]  # fmt: skip
    # A whitespace vocabulary: every token is a word.
    assert [word for word, _ in merge_pieces(["pul@@", "ley", "</s>"])] == ["pul@@", "ley", "</s>"]


def test_by_word_weights_by_hand():
    pieces = ["▁a", "▁b", "c", "</s>"]
    weights = np.array(
        [[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.1, 0.3], [0.3, 0.3, 0.2, 0.2], [1, 0, 0, 0]]
    )
    expected = [[0.1, 0.5, 0.4], [0.4, 0.35, 0.25], [1, 0, 0]]
    np.testing.assert_allclose(merge_weights(weights, pieces, pieces), expected)
    # Leading axes (layers, heads) are kept, and rows may be other words than columns.
    stacked = merge_weights(np.stack([weights, weights])[:, None, :2], pieces[:2], pieces)
    assert stacked.shape == (2, 1, 2, 3)
    np.testing.assert_allclose(stacked[1, 0], [[0.1, 0.5, 0.4], [0.5, 0.2, 0.3]])


@pytest.mark.parametrize("draw", [merge_weights, attention_map, attention_lines])
def test_by_word_rejects_mismatched_words(draw):
    for weights in (np.eye(3)[None], np.eye(3)[None, :2], np.eye(3)[None, :, :2]):
        with pytest.raises(ValueError, match=r"the labels are for \(2, 2\)"):
            draw(weights, ["a", "b"], ["a", "b"])


def test_attention_map_shows_weights_labels_and_marks():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 2)
    figure = attention_map(weights, ["<b>", "$x$"], ["a", "$", "ß"], title="head", marks=[(1, 2)])
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "$", "ß"]
    [frame] = axes.patches
    assert frame.get_xy() == (1.5, 0.5)
    for kind in ("png", "svg"):
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        file.seek(0)
        if kind == "png":
            assert imread(file).std() > 0.05  # something is drawn
        else:
            assert b"<b>" not in file.read()  # text is escaped


@pytest.mark.filterwarnings("error")
def test_attention_map_with_a_very_long_word():
    """What an untrained model writes; a picture without room is a warning, so an error here."""
    figure = attention_map(np.eye(2), ["," * 90, "</s>"], ["a", "b"])
    figure.savefig(io.BytesIO(), format="png")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["," * 23 + "…", "</s>"]


def test_learning_curve_shows_the_records(tmp_path):
    records = [
        {"step": 10, "loss": 5.0, "learning_rate": 0.1},
        {"step": 10, "validation_loss": 4.0},
        {"step": 20, "loss": 3.0, "learning_rate": 0.2},
        {"step": 20, "loss": None, "learning_rate": 0.2},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    loss, rate = learning_curve(tmp_path).axes
    lines = {line.get_label(): line for line in [*loss.get_lines(), *rate.get_lines()]}
    np.testing.assert_array_equal(lines["training loss"].get_xydata(), [[10, 5], [20, 3]])
    np.testing.assert_array_equal(lines["validation loss"].get_xydata(), [[10, 4]])
    np.testing.assert_array_equal(
        lines["learning rate"].get_xydata(), [[10, 0.1], [20, 0.2], [20, 0.2]]
    )


@pytest.mark.parametrize(
    "text", ["", '{"step": 1, "loss": 2.0, "learning_rate": 0.1}\n{"step": 2, "lo']
)
def test_learning_curve_of_a_short_run(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    figure = learning_curve(tmp_path)
    figure.savefig(io.BytesIO(), format="png")
    loss, _ = figure.axes
    assert [line.get_label() for line in loss.get_lines()] == ["training loss"] * bool(text)
