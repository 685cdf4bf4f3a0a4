"""German inflection: nouns, articles, adjectives, pronouns and verbs, each by its paradigm.

Case is "nom", "acc", "dat" or "gen"; `gender` is "m", "f", "n" or, in the plural, "p".
"""

from transformer_jax.data.grammar.lexicon import Adjective, Noun, Verb, irregular_form

__all__ = [
    "CONTRACTIONS",
    "RELATIVE",
    "adjective",
    "definite",
    "demonstrative",
    "finite",
    "indefinite",
    "infinitive",
    "noun",
    "participle",
    "pronoun",
]

# Endings in the order m f n p.
_DER = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en", "gen": "es er es er"}
_EIN = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en", "gen": "es er es er"}
_ADJECTIVE = {
    "strong": {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en", "gen": "en er en er"},
    "weak": {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en", "gen": "en en en en"},
    "mixed": {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en", "gen": "en en en en"},
}
_ARTICLE = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den",
            "gen": "des der des der"}  # fmt: skip
_RELATIVE = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem denen",
             "gen": "dessen deren dessen deren"}  # fmt: skip


def _table(rows: dict[str, str]) -> dict[str, dict[str, str]]:
    return {
        case: dict(zip("mfnp", (form.replace("-", "") for form in row.split())))
        for case, row in rows.items()
    }


RELATIVE = _table(_RELATIVE)
_DEFINITE = _table(_ARTICLE)
_DER_ENDINGS, _EIN_ENDINGS = _table(_DER), _table(_EIN)
_ADJECTIVE_ENDINGS = {kind: _table(rows) for kind, rows in _ADJECTIVE.items()}

_PRONOUNS = {
    "I": ("ich", "mich", "mir"),
    "we": ("wir", "uns", "uns"),
    "m": ("er", "ihn", "ihm"),
    "f": ("sie", "sie", "ihr"),
    "n": ("es", "es", "ihm"),
    "p": ("sie", "sie", "ihnen"),
}

# Preposition and article in one word, as German has it where the article is not stressed.
CONTRACTIONS = {
    ("in", "dem"): "im",
    ("in", "das"): "ins",
    ("an", "dem"): "am",
    ("an", "das"): "ans",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
    ("bei", "dem"): "beim",
    ("von", "dem"): "vom",
}

_IRREGULAR = {  # infinitive: present ich, er, wir; past ich/er, wir
    "sein": ("bin", "ist", "sind", "war", "waren"),
    "haben": ("habe", "hat", "haben", "hatte", "hatten"),
    "können": ("kann", "kann", "können", "konnte", "konnten"),
    "müssen": ("muss", "muss", "müssen", "musste", "mussten"),
    "wollen": ("will", "will", "wollen", "wollte", "wollten"),
    "dürfen": ("darf", "darf", "dürfen", "durfte", "durften"),
    "sollen": ("soll", "soll", "sollen", "sollte", "sollten"),
}


def noun(entry: Noun, case: str, plural: bool) -> str:
    """
    >>> from transformer_jax.data.grammar.lexicon import load_lexicon
    >>> boy = next(n for n in load_lexicon().nouns if n.german == "Junge")
    >>> [noun(boy, case, plural=False) for case in ("nom", "acc", "dat", "gen")]
    ['Junge', 'Jungen', 'Jungen', 'Jungen']
    """
    if plural:
        form = entry.german_plural
        return form + "n" if case == "dat" and form[-1] not in "ns" else form
    if case == "gen" or (entry.weak and case != "nom"):
        return entry.genitive
    return entry.german


def definite(case: str, gender: str) -> str:
    """der, die, das and their forms."""
    return _DEFINITE[case][gender]


def indefinite(stem: str, case: str, gender: str) -> str:
    """ein, kein and the possessives: `stem` with the endings of ein.

    >>> indefinite("unser", "dat", "f")
    'unserer'
    """
    return stem + _EIN_ENDINGS[case][gender]


def demonstrative(stem: str, case: str, gender: str) -> str:
    """dieser, jeder, jener: `stem` with the endings of der.

    >>> demonstrative("dies", "acc", "m")
    'diesen'
    """
    return stem + _DER_ENDINGS[case][gender]


def adjective(
    entry: Adjective, declension: str, case: str, gender: str, *, comparative: bool = False
) -> str:
    """An adjective before its noun: "weak" after der-words, "mixed" after ein-words, or "strong".

    >>> from transformer_jax.data.grammar.lexicon import load_lexicon
    >>> dark = next(a for a in load_lexicon().adjectives if a.german == "dunkel")
    >>> adjective(dark, "mixed", "nom", "n")
    'dunkles'
    """
    stem = entry.german_comparative if comparative else entry.stem
    return f"{stem}{_ADJECTIVE_ENDINGS[declension][case][gender]}"


def pronoun(person: str, case: str) -> str:
    """Personal pronoun of "I", "we", or a gender "m", "f", "n", "p" in the third person.

    >>> pronoun("m", "dat"), pronoun("p", "dat")
    ('ihm', 'ihnen')
    """
    return _PRONOUNS[person][("nom", "acc", "dat").index(case)]


def finite(entry: Verb | str, tense: str, person: str) -> str:
    """Present or past form for "ich", "er" or "wir" (which is also that of sie, plural).

    An auxiliary or modal is named by its infinitive. The particle of a separable verb stands
    elsewhere in the sentence and is left out.

    >>> finite("müssen", "past", "wir"), finite("sein", "present", "er")
    ('mussten', 'ist')
    """
    if isinstance(entry, str):
        return irregular_form(_IRREGULAR[entry], tense, person)
    if tense == "past":
        past = entry.german_past
        if person != "wir":
            return past
        return past + ("n" if past.endswith("e") else "en")
    if person == "er":
        return entry.german_third
    if person == "wir":
        return entry.infinitive
    if entry.infinitive.endswith("eln"):
        return entry.infinitive.removesuffix("eln") + "le"
    return entry.infinitive.removesuffix("n").removesuffix("e") + "e"


def infinitive(entry: Verb) -> str:
    """The infinitive with its particle."""
    return entry.particle + entry.infinitive


def participle(entry: Verb) -> str:
    """The past participle with its particle: aufgestanden."""
    return entry.particle + entry.german_participle
