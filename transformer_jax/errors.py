"""The error of everything a user can mend: its message is shown without a traceback."""

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input. The message names the place, the value, the rule and the remedy.

    No ValueError: the option parser would catch it and word it in its own way.
    """
