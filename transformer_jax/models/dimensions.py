"""Logical axes of parameters: letters that stand beside each parameter where it is made.

D, F, H, K, V are those of the glossary; HK and HDv are the heads side by side, P positions, U units
of a layer that no mesh cuts, k the entries of a convolution's kernel.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

__all__ = ["FLOAT32", "Module", "axes_of", "boxed_init", "name_axes", "state_axes"]


# By name: what Flax's initialisers take by default is 64 bits wide under JAX_ENABLE_X64.
FLOAT32 = jnp.float32


class Module(nn.Module):
    """A Flax module whose `init` returns plain arrays; the logical axes are for `axes_of`."""

    def init(self, *arguments, **options):
        return nn.unbox(super().init(*arguments, **options))


def boxed_init(model: nn.Module, *inputs: Any) -> Callable[[jax.Array], Any]:
    """Make rng -> variables boxed with their logical axes, as `make_step` takes it."""
    return lambda rng: nn.Module.init(model, rng, *inputs)


def name_axes(initialise: Callable, *letters: str) -> Callable:
    """Give an initialiser the logical axes of its parameter.

    Args:
        initialise: An initialiser, as of `flax.linen.initializers`.
        letters: The logical axis of each dimension, such as "D" or "V".

    >>> ones = name_axes(nn.initializers.ones, "V", "D")
    >>> ones(jax.random.key(0), (3, 2)).names
    ('V', 'D')
    """
    return nn.with_logical_partitioning(initialise, letters)


def axes_of(init: Callable[[jax.Array], Mapping[str, Any]]) -> Any:
    """Return the logical axes of every parameter that `init` makes, as PartitionSpecs.

    P() stands where a parameter has no names.

    Raises:
        ValueError: A parameter has not as many dimensions as letters.

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
    """Return the logical axes of every leaf of a state that contains trees like the parameters'.

    A leaf has the axes of the parameter whose path ends its own, where it also has that one's
    shape; others have none, as counters and the rows and columns of adafactor.

    Args:
        state: The state.
        shapes: Tree of the parameters' shapes.
        axes: Tree of the parameters' logical axes.
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
    """Return the names along the path of a leaf; those of its parameter are the last."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
