"""What the dimensions of each parameter are, by its name: one table, in glossary letters."""

import fnmatch

import jax

__all__ = ["DIMENSIONS", "dimensions", "leaf_name"]

# Letters of the glossary; HK and HDv are the heads side by side, P positions. First match counts.
DIMENSIONS = {
    "*attention/query/kernel": ("D", "HK"),
    "*attention/key/kernel": ("D", "HK"),
    "*attention/value/kernel": ("D", "HDv"),
    "*attention/output/kernel": ("HDv", "D"),
    "*attention/query/bias": ("HK",),
    "*attention/key/bias": ("HK",),
    "*attention/value/bias": ("HDv",),
    "*attention/output/bias": ("D",),
    "*attention/vector": ("K", "H"),
    "*feed_forward/kernel_in": ("D", "F"),
    "*feed_forward/bias_in": ("F",),
    "*feed_forward/kernel_out": ("F", "D"),
    "*feed_forward/bias_out": ("D",),
    "*_norm/gain": ("D",),
    "*_norm/bias": ("D",),
    "*embedding": ("V", "D"),
    "position_table": ("P", "D"),
}


def leaf_name(path) -> str:
    """The names along the path of a leaf: those of its parameter, wherever in a state it is.

    >>> tree = (3, {"embedding": 1.0})
    >>> [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    ['', 'embedding']
    """
    return "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def dimensions(name: str, rank: int) -> tuple[str, ...]:
    """Letters of a parameter's dimensions. ValueError for a name or a rank that the table lacks.

    >>> dimensions("decoder_0/cross_attention/key/kernel", 2)
    ('D', 'HK')
    >>> dimensions("", 0)
    ()
    """
    if not name and rank == 0:
        return ()  # a counter of the training state
    for pattern, letters in DIMENSIONS.items():
        if fnmatch.fnmatchcase(name, pattern):
            if len(letters) != rank:
                raise ValueError(f"{name} has {rank} dimensions, not {letters} as {pattern} says")
            return letters
    raise ValueError(f"no dimensions are known of {name!r}: name them in DIMENSIONS")
