"""The mean of several checkpoints' parameters (section 6.1)."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

__all__ = ["average"]


def average(trees: Iterable):
    """Leaf-wise mean; trees may be produced one at a time, two are held at once.

    >>> average([{"w": jnp.zeros(1)}, {"w": jnp.full(1, 4.0)}])
    {'w': Array([2.], dtype=float32)}
    """
    total, count = None, 0
    for tree in trees:
        count += 1
        total = tree if total is None else jax.tree.map(jnp.add, total, tree)
    if not count:
        raise ValueError("no parameters to average")
    return jax.tree.map(lambda leaf: leaf / count, total)
