"""UserError: an error that the user can correct; its message is shown without a traceback."""

from collections.abc import Collection

__all__ = ["MAX_INT32", "UserError", "did_you_mean", "is_encodable"]

# Whole number that any option may be: what numbers of 32 bits hold.
MAX_INT32 = 2**31 - 1


class UserError(Exception):
    """Bad input. The message names the place, the value, the rule and the remedy.

    It is not a ValueError, which the option parser would catch and reword.
    """


def did_you_mean(name: str, known: Collection[str]) -> str:
    """End a message about an unknown name: with the closest known one, or with all of them.

    >>> did_you_mean("gramar", ["grammar", "text"])
    "did you mean 'grammar'?"
    >>> did_you_mean("x", ["grammar", "text"])
    'known: grammar, text'
    """
    import difflib  # only where something is wrong

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def is_encodable(text: str) -> bool:
    """Whether a string has a UTF-8 encoding: lone surrogates, which JSON can spell, have none.

    >>> is_encodable("\u00e4"), is_encodable("\\ud800")
    (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)
