"""What goes with what: adverbs by tense, prepositions by class, and what nobody says."""

INANIMATE = ("food", "dish", "text", "thing", "furniture", "vehicle", "place")
FREQUENCY = (("often", "oft"), ("sometimes", "manchmal"), ("always", "immer"))
TIME = {
    "present": (("today", "heute"), ("now", "jetzt"), ("every day", "jeden Tag")),
    "past": (
        ("yesterday", "gestern"),
        ("last week", "letzte Woche"),
        ("last year", "letztes Jahr"),
    ),
}
TIME_ANY = (
    ("in the evening", "am Abend"),
    ("in the morning", "am Morgen"),
    ("on Sunday", "am Sonntag"),
    ("at night", "nachts"),
)
CONJUNCTIONS = (
    ("because", "weil"),
    ("although", "obwohl"),
    ("while", "während"),
    ("before", "bevor"),
)

# English, German, classes of what follows; each of them either way.
AT_REST = (
    ("in", "in", "place"),
    ("behind", "hinter", "place furniture vehicle"),
    ("next to", "neben", "place furniture vehicle"),
    ("in front of", "vor", "place vehicle"),
    ("under", "unter", "furniture"),
    ("on", "auf", "furniture"),
)
# "runs under the table" may be said of a place; what is thrown under it ends there.
INTO = (
    ("into", "in", "place"),
    ("onto", "auf", "furniture"),
    ("under", "unter", "furniture"),
    ("behind", "hinter", "place furniture vehicle"),
    ("next to", "neben", "place furniture vehicle"),
)
# So many of INTO: one climbs onto a table, and what is pulled behind a bus need not end there.
GOALS = {"go": 1, "pull": 2}
TOWARDS = (("to", "zu", "dat", "place"), ("through", "durch", "acc", "place"))

# Persons whose sex English does not say, or German says otherwise; no he, she, his or her beside
# them: it would be read as theirs.
EITHER_SEX = frozenset(
    {
        "child", "girl", "student", "neighbour", "farmer", "colleague", "customer", "teacher",
        "doctor", "guest", "friend", "baker", "painter",
    }
)  # fmt: skip
# "His woman" is his wife; the others only sound foolish.
NEVER_SAID = frozenset({("boy", "young"), ("friend", "friendly")})
NEVER_OWNED = frozenset({"man", "woman"})
# What happens to people: nobody "can need" or "wants to collapse".
NEVER_WILLED = frozenset(
    {
        "need", "lose", "forget", "hear", "see", "love", "disappear", "die", "fall over",
        "fall asleep", "collapse",
    }
)  # fmt: skip
