"""Parameters that keep their values while others are trained."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from transformer_jax.errors import UserError, did_you_mean

__all__ = ["select_frozen"]


def select_frozen(params: Any, names: Sequence[str]) -> Any:
    """Select the parameters that `OptimizerConfig.frozen` names.

    Args:
        params: The parameters, or their shapes.
        names: Names of parts: a name that is a parameter's, or begins it up to a "/"; * stands for
            anything.

    Returns:
        The same tree of bool, True where a parameter keeps its value.

    Raises:
        UserError: A name is that of nothing, or nothing is left to train.

    >>> params = {"embedding": 1, "encoder_0": {"norm": {"gain": 2, "bias": 3}}}
    >>> select_frozen(params, ["encoder_*"])
    {'embedding': False, 'encoder_0': {'norm': {'bias': True, 'gain': True}}}
    """
    paths = jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    leaves = jax.tree.leaves(paths)

    def is_named(path: str, name: str) -> bool:
        return fnmatchcase(path, name) or fnmatchcase(path, f"{name}/*")

    for name in names:
        if not any(is_named(path, name) for path in leaves):
            parts = list(dict.fromkeys(path.partition("/")[0] for path in leaves))
            raise UserError(f"frozen {name!r} is no part of the model; {did_you_mean(name, parts)}")
    found = jax.tree.map(lambda path: any(is_named(path, name) for name in names), paths)
    if all(jax.tree.leaves(found)):
        raise UserError(
            f"frozen {', '.join(names)}: that is all of the model, and nothing is left to train: "
            "name fewer parts"
        )
    return found
