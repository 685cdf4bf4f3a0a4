"""Pictures of trees."""

import xml.etree.ElementTree as ElementTree

from transformer_jax.parsing import parse_brackets, words
from transformer_jax.visualization.tree import draw_tree

TREE = parse_brackets(
    "(TOP (S (NP (DT the) (NN $x_1$)) (VP (VBZ <b>) (NP (PRP it)) (ADVP (RB so)))))"
)


def test_constituents_are_above_the_middle_of_their_parts():
    texts = {text.get_text(): text.get_position() for text in draw_tree(TREE).axes[0].texts}
    place = {name: x for name, (x, _) in texts.items()}
    row = [place[word] for word in words(TREE)]
    assert row == sorted(row) and len({texts[word][1] for word in words(TREE)}) == 1
    assert place["VP"] == (place["VBZ"] + place["ADVP"]) / 2
    assert place["S"] == place["TOP"] == (place["VP"] + (place["DT"] + place["NN"]) / 2) / 2
    height = {name: y for name, (_, y) in texts.items()}
    assert height["TOP"] > height["S"] > height["VP"] > height["VBZ"] > height["<b>"]


def test_picture_is_svg_with_text_as_it_stands(tmp_path):
    draw_tree(TREE).savefig(tmp_path / "tree.svg", metadata={"Date": None})
    written = (tmp_path / "tree.svg").read_text()
    root = ElementTree.fromstring(written)
    assert root.tag.endswith("svg") and "<!-- $x_1$ -->" in written and "<b>" not in written
