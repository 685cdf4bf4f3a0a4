"""The error of everything a user can mend: its message is shown without a traceback."""

from collections.abc import Collection

__all__ = ["LARGEST", "UserError", "is_text", "nearest"]

# Whole number that any option may be: what numbers of 32 bits hold.
LARGEST = 2**31 - 1


class UserError(Exception):
    """Bad input. The message names the place, the value, the rule and the remedy.

    No ValueError: the option parser would catch it and word it in its own way.
    """


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a message about a name that is not known.

    >>> nearest("gramar", ["grammar", "text"])
    "did you mean 'grammar'?"
    >>> nearest("x", ["grammar", "text"])
    'known: grammar, text'
    """
    import difflib  # only where something is wrong

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def is_text(text: str) -> bool:
    """Whether a string has an encoding: JSON can spell halves of characters, which have none.

    >>> is_text("\u00e4"), is_text("\\ud800")
    (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)
