"""Spelled numbers from two to ninety-nine."""

__all__ = ["NUMBERS"]

_UNITS = """
two zwei, three drei, four vier, five fünf, six sechs, seven sieben, eight acht, nine neun,
ten zehn, eleven elf, twelve zwölf, thirteen dreizehn, fourteen vierzehn, fifteen fünfzehn,
sixteen sechzehn, seventeen siebzehn, eighteen achtzehn, nineteen neunzehn
"""
_TENS = """
twenty zwanzig, thirty dreißig, forty vierzig, fifty fünfzig, sixty sechzig, seventy siebzig,
eighty achtzig, ninety neunzig
"""


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(pair.split()[0], pair.split()[1]) for pair in text.split(",")]


def _spelled() -> dict[int, tuple[str, str]]:
    numbers = {1: ("one", "ein"), **dict(enumerate(_pairs(_UNITS), 2))}
    for tens, (english, german) in enumerate(_pairs(_TENS), 2):
        numbers[10 * tens] = (english, german)
        for ones in range(1, 10):
            one, eins = numbers[ones]
            numbers[10 * tens + ones] = (f"{english}-{one}", f"{eins}und{german}")
    del numbers[1]
    return numbers


# number -> (English, German), one word each
NUMBERS = _spelled()
