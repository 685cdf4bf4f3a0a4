"""Labels of any script: fonts are found by what they hold, here in fonts made for the test."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from transformer_jax.visualization.attention import attention_map, merge_pieces
from transformer_jax.visualization.fonts import choose_fonts

BOXES = "Last Resort High-Efficiency"  # of newer matplotlib
HAN, DEVANAGARI = "你好", "नमस"


def make_font(path, family, characters):
    """A font whose glyphs are squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in characters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """Installed are two of matplotlib's own and two more, one for each script."""
    manager = font_manager.fontManager
    own = [font for font in manager.ttflist if font.name in ("DejaVu Sans", BOXES)]
    monkeypatch.setattr(manager, "ttflist", own)
    for family, characters in (("Test Han", HAN), ("Test Devanagari", DEVANAGARI)):
        path = tmp_path / f"{family}.ttf"
        make_font(path, family, characters)
        manager.addfont(path)


def test_fonts_are_chosen_by_the_characters_they_hold(fonts, caplog):
    assert choose_fonts(["Größe", "</s>", " \u200b"]) == ["DejaVu Sans"]
    assert choose_fonts(["a", HAN]) == ["DejaVu Sans", "Test Han"]
    both = ["DejaVu Sans", "Test Han", "Test Devanagari"]
    assert choose_fonts([HAN, DEVANAGARI]) == both
    assert not caplog.text
    # What none has is named, and what some have is drawn none the less.
    assert choose_fonts(["\u1000", HAN])[:2] == ["DejaVu Sans", "Test Han"]
    assert choose_fonts(["\u1000"])[1:] in ([BOXES], [])
    assert "no installed font has \u1000 (MYANMAR): install one" in caplog.text


@pytest.mark.filterwarnings("error")  # matplotlib warns of a glyph that is missing
def test_fonts_are_used_in_pictures(fonts, tmp_path):
    figure = attention_map(np.eye(2), list(HAN), [DEVANAGARI[0], "x"])
    figure.savefig(tmp_path / "picture.png")
    label = figure.axes[0].get_xticklabels()[0]
    assert "Test Devanagari" in label.get_fontfamily()


def test_merge_pieces_of_scripts_without_spaces():
    found = merge_pieces(["\u2581你好", "世界", "。", "\u2581ab", "c", "กา", "\u0e31", "</s>"])
    assert [word for word, _ in found] == ["你好", "世界", "。", "abc", "กา\u0e31", "</s>"]
    assert [place for _, places in found for place in places] == list(range(8))
