"""English inflection, and the words of the grammar that are no lexicon entries."""

from transformer_jax.data.grammar.lexicon import Verb, irregular_form

__all__ = ["POSSESSIVES", "PRONOUNS", "article", "finite"]

# Person or gender -> (subject, object). "n" is the thing spoken of, "it".
PRONOUNS = {
    "I": ("I", "me"),
    "we": ("we", "us"),
    "m": ("he", "him"),
    "f": ("she", "her"),
    "n": ("it", "it"),
    "p": ("they", "them"),
}
POSSESSIVES = {"my": "mein", "his": "sein", "her": "ihr", "our": "unser", "their": "ihr"}

_IRREGULAR = {  # present I, he, we; past I/he, we
    "be": ("am", "is", "are", "was", "were"),
    "have": ("have", "has", "have", "had", "had"),
    "do": ("do", "does", "do", "did", "did"),
    "can": ("can", "can", "can", "was able to", "were able to"),
    "must": ("must", "must", "must", "had to", "had to"),
    "want to": ("want to", "wants to", "want to", "wanted to", "wanted to"),
}


def article(following: str) -> str:
    """a or an, by the first sound of the word that follows.

    >>> article("old"), article("useful"), article("house")
    ('an', 'a', 'a')
    """
    vowel = following[0] in "aeiou" and not following.startswith("use")
    return "an" if vowel else "a"


def finite(entry: Verb | str, tense: str, person: str) -> str:
    """Present or past form for "ich", "er" or "wir", as german.finite; "wir" is any plural.

    >>> finite("be", "past", "wir"), finite("do", "present", "er")
    ('were', 'does')
    """
    if isinstance(entry, str):
        return irregular_form(_IRREGULAR[entry], tense, person)
    if tense == "past":
        return entry.past
    return entry.third if person == "er" else entry.base
