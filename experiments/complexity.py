"""Table 1: operations, sequential operations and path lengths of four layers, counted.

Each layer is a function of the package, x [n, d] -> [n, d], without what Table 1 leaves out, such
as projections. Operations and the longest chain of them are counted over the traced program, a
loop's body times its length; paths are searched in derivatives. How each grows is fitted.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import Literal

from experiments.ledger import Cell, Table
from transformer_jax import functional
from transformer_jax.config import ModelConfig
from transformer_jax.models.families import build_model

__all__ = [
    "Layer",
    "complexity_table",
    "convolution",
    "count",
    "count_operations",
    "depth",
    "growth",
    "longest_path",
    "recurrence",
    "recurrent",
    "restricted_attention",
    "self_attention",
    "training_operations",
]

Layer = Callable[[jax.Array], jax.Array]

# Primitives that move numbers and compute none.
_MOVES = {
    "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice",
    "dynamic_update_slice", "gather", "iota", "pad", "reshape", "rev", "select_n", "slice",
    "split", "squeeze", "stop_gradient", "transpose",
}  # fmt: skip


def self_attention(d: int) -> Layer:
    """Every position attends to all, with one head."""
    return lambda x: functional.dot_product_attention(*[x[None, :, None]] * 3)[0, :, 0]


def restricted_attention(d: int, r: int) -> Layer:
    """Every position attends to the r / 2 on either side."""

    def layer(x):
        return functional.local_attention(*[x[None, :, None]] * 3, radius=r // 2)[0, :, 0]

    return layer


def recurrence(d: int) -> tuple[nn.Module, Any]:
    """Elman's cell of d units that reads d, and parameters of it."""
    cell, x = nn.SimpleCell(d), jnp.zeros(d)
    return cell, cell.init(jax.random.key(0), x, x)


def recurrent(d: int, unroll: int = 1) -> Layer:
    """A recurrent network; `unroll` writes as many steps into each round of its loop."""
    cell, variables = recurrence(d)

    def layer(x):
        step: Any = lambda h, x: cell.apply(variables, h, x)  # noqa: E731
        return jax.lax.scan(step, jnp.zeros(d), x, unroll=unroll)[1]

    return layer


def convolution(d: int, k: int, dilation: int = 1) -> Layer:
    """A causal convolution of k entries."""
    kernel = jax.random.normal(jax.random.key(0), (k, d, d)) / math.sqrt(k * d)
    bias = jnp.zeros(d)
    return lambda x: functional.convolution(x[None], kernel, bias, dilation=dilation)[0]


def count(config: ModelConfig) -> int:
    """Parameters of a model, from shapes alone."""
    tokens = jnp.ones((1, 2), jnp.int32)
    shapes = jax.eval_shape(build_model(config).init, jax.random.key(0), tokens, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def training_operations(config: ModelConfig, rows: int, length: int) -> int:
    """Count the operations of a loss and its gradient over sentence pairs of one length.

    Args:
        config: A model without collections that change as it trains.
        rows: Sentence pairs.
        length: Tokens of each source and of each target.
    """
    model, tokens = build_model(replace(config, dropout=0.0)), jnp.ones((rows, length), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]

    def loss(params):
        logits: Any = model.apply({"params": params}, tokens, tokens)
        total, count = functional.label_smoothed_cross_entropy(logits, tokens)
        return total / count

    return count_operations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)


def trace(layer: Layer, n: int, d: int):
    """The program of a layer for n positions of d features."""
    return jax.make_jaxpr(layer)(jax.ShapeDtypeStruct((n, d), jnp.float32)).jaxpr


def _inner(equation) -> list:
    """The programs inside an equation; ValueError where it does not say how often they run."""
    name = equation.primitive.name
    if name in ("while", "cond"):
        raise ValueError(f"how long a {name} takes is not in its program")
    return [
        getattr(each, "jaxpr", each)
        for each in equation.params.values()
        if hasattr(each, "jaxpr") or hasattr(each, "eqns")
    ]


def count_operations(jaxpr) -> int:
    """Count a program's arithmetic: a multiply-add is two, a reduction one for each addend."""
    total = 0
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, _inner(equation)
        sizes = [v.aval.size for v in equation.outvars]
        if inner:
            total += sum(map(count_operations, inner)) * equation.params.get("length", 1)
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * sizes[0] * math.prod(shape[axis] for axis in contracted)
        elif name.startswith(("reduce_", "arg", "cum")):
            total += equation.invars[0].aval.size
        elif name not in _MOVES:
            total += sizes[0]
    return total


def depth(jaxpr) -> int:
    """Longest chain of operations in which each waits for the one before; a reduction is one."""
    reached: dict[Any, int] = {}
    for equation in jaxpr.eqns:
        variables = [v for v in equation.invars if not isinstance(v, Literal)]
        before = max((reached.get(v, 0) for v in variables), default=0)
        inner = _inner(equation)
        steps = equation.params.get("length", 1)  # of a scan
        own = sum(map(depth, inner)) * steps if inner else 1
        reached.update(dict.fromkeys(equation.outvars, before + own))
    return max(reached.values(), default=0)


def longest_path(layers: Iterable[Layer], n: int, d: int = 4) -> int:
    """Count the layers that a signal passes from the first of n positions to the last.

    A signal passes from one position to another where the layer's derivative between them is not
    zero.

    Args:
        layers: At least as many as the path has.
        n: Positions.
        d: Features.
    """
    x = jax.random.normal(jax.random.key(0), (n, d))
    reached = np.zeros(n, bool)
    reached[0] = True
    last, near = None, reached
    for count, layer in enumerate(layers, 1):
        if layer is not last:
            derivative = np.asarray(jax.jit(jax.jacobian(layer))(x))  # [T, D, S, D]
            last, near = layer, np.abs(derivative).max(axis=(1, 3)) > 0
        further = reached | (near & reached[None]).any(axis=1)
        if further[-1]:
            return count
        if (further == reached).all():
            break
        reached = further
    raise ValueError("positions that these layers do not connect")


def growth(measure: Callable[..., float], sizes: Sequence[int], place: int) -> float:
    """Fit the power with which a measure grows in one of its sizes, by least squares.

    Args:
        measure: Of all sizes.
        sizes: Where the one that grows begins; it is doubled three times.
        place: Which one grows.

    >>> round(growth(lambda n, d: 5 * n**2 * d, (8, 8), 0), 3)
    2.0
    """
    grown = [sizes[place] * 2**i for i in range(4)]
    found = [measure(*sizes[:place], each, *sizes[place + 1 :]) for each in grown]
    return float(np.polyfit(np.log(grown), np.log(found), 1)[0])


class Row(NamedTuple):
    """A row of Table 1.

    Attributes:
        name: Its layer.
        letters: What its layer is made of, n and then the arguments of `make`.
        make: Of these sizes but n.
        sizes: From where on the growth of operations is fitted.
        small: The same of chains.
        paper: Operations, sequential operations and path length as the paper has them.
    """

    name: str
    letters: str
    make: Callable[..., Layer]
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    paper: tuple[str, str, str]


ROWS = (
    Row("self-attention", "nd", self_attention, (256, 256), (64, 8), ("n^2 d", "1", "1")),
    Row("recurrent", "nd", recurrent, (64, 256), (64, 8), ("n d^2", "n", "n")),
    Row("convolutional", "ndk", convolution, (64, 256, 3), (64, 8, 3), ("k n d^2", "1", "log_k n")),
    Row(
        "restricted",
        "ndr",
        restricted_attention,
        (512, 256, 32),
        (128, 8, 8),
        ("r n d", "1", "n / r"),
    ),
)


def complexity_table() -> Table:
    """Table 1, by how what is counted grows with each size."""
    rows: list[list[Cell]] = []

    def add(row: Row, of: str, paper: str, measure: Callable[[Any], float], sizes: Sequence[int]):
        def measured(n: int, *others: int) -> float:
            return measure(trace(row.make(*others), n, others[0]))

        powers = [growth(measured, sizes, place) for place in range(len(sizes))]
        shown = " ".join(f"{x}^{round(p, 2) + 0:.2f}" for x, p in zip(row.letters, powers))
        at = ", ".join(f"{letter} {size}" for letter, size in zip(row.letters, sizes))
        rows.append([row.name, of, paper, shown, f"{at}, each doubled three times"])

    for row in ROWS:
        add(row, "operations a layer", row.paper[0], count_operations, row.sizes)
    for row in ROWS:
        add(row, "sequential operations", row.paper[1], depth, row.small)
    for row, shown, at in zip(ROWS, _paths(), ("layers", "steps", "layers", "layers")):
        rows.append([row.name, "longest path", row.paper[2], shown, at])
    columns = ["layer", "of", "paper", "ours", "at"]
    return Table("Table 1: powers of each size, fitted by least squares", columns, rows)


def _paths() -> list[str]:
    """How many layers, or steps of a recurrence, join the ends of some lengths; in ROWS' order."""
    cell, variables = recurrence(4)
    x = jax.random.normal(jax.random.key(1), (300, 4))

    def recurrent_step(h):
        """The states of all positions from those before them."""
        before = jnp.concatenate([jnp.zeros((1, 4)), h[:-1]])
        apply: Any = lambda h, x: cell.apply(variables, h, x)[1]  # noqa: E731
        return jax.vmap(apply)(before, x[: len(h)])

    def dilated(k: int):
        return [convolution(4, k, k**i) for i in range(12)]

    repeated = itertools.repeat
    attention, ends = self_attention(4), (17, 33, 65)
    parts = [
        [f"n {n}: {longest_path(repeated(attention), n)}" for n in ends],
        [f"n {n}: {longest_path(repeated(recurrent_step), n)}" for n in ends],
        [
            *(f"k 3, n {n}: {longest_path(dilated(3), n)}" for n in (9, 27, 81)),
            *(f"not dilated, n {n}: {longest_path(repeated(convolution(4, 3)), n)}" for n in ends),
        ],
        [
            f"r {r}, n {n}: {longest_path(repeated(restricted_attention(4, r)), n)}"
            for r, n in ((8, 65), (8, 129), (16, 129))
        ],
    ]
    return ["; ".join(part) for part in parts]
