"""Fonts for labels of any script."""

import functools
import logging
import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

__all__ = ["choose_fonts"]

log = logging.getLogger(__name__)


def choose_fonts(labels: Iterable[str]) -> list[str]:
    """Families of installed fonts that have the labels' characters, matplotlib's own first.

    What no font has is named in a warning: a picture shows a box in its place.

    >>> choose_fonts(["Größe", "</s>"])
    ['DejaVu Sans']
    """
    families = [font_manager.FontProperties(family="DejaVu Sans").get_name()]
    wanted = {ord(c) for label in labels for c in label if not c.isspace() and c.isprintable()}
    missing = wanted - _characters(font_manager.findfont(families[0]))
    boxes = []  # fonts that have a box for every character: matplotlib's own, macOS's
    for font in font_manager.fontManager.ttflist if missing else ():
        if "lastresort" in font.name.replace(" ", "").lower():
            boxes.append(font.name)
        elif missing & (covered := _characters(font.fname)):
            families.append(font.name)
            missing -= covered
            if not missing:
                break
    if missing:
        families += boxes[:1]
        log.warning(
            "no installed font has %s (%s): install one, for example a Noto font of that script",
            " ".join(map(chr, sorted(missing)[:10])), ", ".join(_scripts(missing)),
        )  # fmt: skip
    return families


@functools.cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # removed since matplotlib listed it, or no font after all
        return frozenset()


def _scripts(characters: Iterable[int]) -> list[str]:
    """The first words of the characters' names: CJK, DEVANAGARI."""
    names = {unicodedata.name(chr(c), "without a name").split()[0] for c in characters}
    return sorted(names)
