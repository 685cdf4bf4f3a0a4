"""What the dimensions of a parameter are: letters that stand beside it where it is made.

D, F, H, K, V as in the glossary; HK and HDv are the heads side by side, P positions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

__all__ = ["FLOAT32", "Module", "axes_of", "boxed_init", "named", "state_axes"]


# By name: what Flax's initialisers take by default is 64 bits wide under JAX_ENABLE_X64.
FLOAT32 = jnp.float32


class Module(nn.Module):
    """A Flax module whose `init` gives plain arrays; the letters are for `axes_of`."""

    def init(self, *arguments, **options):
        return nn.unbox(super().init(*arguments, **options))


def boxed_init(model: nn.Module, *inputs: Any) -> Callable[[jax.Array], Any]:
    """rng -> variables of a model with the names of their dimensions, as `make_step` takes it."""
    return lambda rng: nn.Module.init(model, rng, *inputs)


def named(initialise: Callable, *letters: str) -> Callable:
    """An initialiser of a parameter with the letters of its dimensions."""
    return nn.with_logical_partitioning(initialise, letters)


def axes_of(init: Callable[[jax.Array], Mapping[str, Any]]) -> Any:
    """PartitionSpec of letters for every parameter that `init` makes; P() where none are named.

    ValueError for a parameter that has not as many dimensions as letters.

    >>> init = lambda rng: {"params": {"w": nn.LogicallyPartitioned(jax.numpy.ones(3), ("D",))}}
    >>> tuple(axes_of(init)["w"])
    ('D',)
    """
    boxed = jax.eval_shape(init, jax.random.key(0))["params"]
    specs = nn.get_partition_spec(boxed)

    def checked(path, leaf, spec):
        if spec != P() and len(spec) != leaf.ndim:
            raise ValueError(
                f"{'/'.join(_names(path))} has {leaf.ndim} dimensions, not {tuple(spec)}"
            )
        return spec

    return jax.tree_util.tree_map_with_path(checked, nn.unbox(boxed), specs)


def state_axes(state: Any, shapes: Any, axes: Any) -> Any:
    """Letters of every leaf of a state that holds trees like the parameters' inside it.

    A leaf has those of the parameter whose path ends its own, where it has that one's shape, too;
    others have none, as counters and the rows and columns of adafactor.

    shapes, axes  trees of the parameters
    """
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    known = {
        _names(path): (leaf.shape, spec)
        for (path, leaf), spec in zip(leaves, jax.tree.leaves(axes), strict=True)
    }

    def spec(path, leaf):
        names = _names(path)
        for start in range(len(names)):
            if names[start:] in known:
                shape, found = known[names[start:]]
                return found if leaf.shape == shape else P()
        return P()

    return jax.tree_util.tree_map_with_path(spec, state)


def _names(path) -> tuple[str, ...]:
    """The names along the path of a leaf; those of its parameter are the last."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
