"""The calls of a forward pass: modules and functions, what each calls in turn, what flows between.

Modules are seen by Flax's interceptor, functions where they are looked up. What goes into a call
and what comes out is marked in the traced program, so that where an input comes from is read there:
a call reads from another if the program takes the other's output to it and no third one's between.
"""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from transformer_jax import Transformer
from transformer_jax.config import ModelConfig
from transformer_jax.functional import attention
from transformer_jax.models import decoder, embedding, encoder, layers, norms
from transformer_jax.models.kernels import KERNELS

__all__ = ["BATCH", "SOURCE", "TARGET", "Call", "calls", "dataflow_edges"]

# Sizes that differ from each other and from most models', so that a shape tells its letters.
BATCH, SOURCE, TARGET = 2, 5, 7
# Functions to see besides the modules: where they are looked up, and their names there.
WATCHED = (
    (embedding, ("embed", "sinusoids", "learned_positions")),
    (encoder, ("padding_mask",)),
    (decoder, ("causal_mask", "padding_mask")),
    (layers, ("feed_forward",)),
    (norms, ("layer_norm", "batch_norm")),
    (
        attention,
        (
            "split_heads",
            "attention_weights",
            "additive_attention_weights",
            "apply_attention",
            "merge_heads",
        ),
    ),
)
# What is no step of the flow: some methods, and modules that only call what is watched.
UNTRACED_METHODS = (
    "setup", "dropout_rng", "_sublayers", "parameters", "queries", "queries_keys_values", "_project"
)  # fmt: skip
PASSING = (encoder.Encoder, decoder.Decoder, embedding.Embedding)
Origin = int | str


@dataclass
class Call:
    """A module or function that was called: kind, name, what came out, what it called in turn.

    numbers  in the order of calls; several for one that stands for equal ones
    reads    where its inputs come from: numbers of calls, or names of the model's arguments
    returns  where its output comes from
    """

    kind: str
    name: str
    shape: str = ""
    inner: list["Call"] = field(default_factory=list)
    times: int = 1
    numbers: set[int] = field(default_factory=set)
    reads: Set[Origin] = frozenset()
    returns: Set[Origin] = frozenset()

    def same(self, other: "Call") -> bool:
        """Equal but for the number in its name."""
        return (self.kind, self.shape, len(self.inner)) == (
            other.kind, other.shape, len(other.inner),
        ) and all(a.same(b) for a, b in zip(self.inner, other.inner))  # fmt: skip

    def all(self) -> Iterator["Call"]:
        yield self
        for each in self.inner:
            yield from each.all()


def dataflow_edges(call: Call) -> list[tuple[int, int]]:
    """(from, to) between the calls inside one, by place; -1 is its input, len(inner) its output."""
    owner: dict[Origin, int] = {
        number: place for place, each in enumerate(call.inner) for number in each.numbers
    }
    ends = [*(each.reads for each in call.inner), call.returns]
    found = {(owner.get(origin, -1), to) for to, origins in enumerate(ends) for origin in origins}
    return sorted((start, to) for start, to in found if start != to)


def calls(model: ModelConfig) -> Call:
    """What a forward pass calls, in order; shapes only, nothing is computed."""
    letters = {
        model.num_heads: "H", model.key_size: "K", model.d_ff: "F", model.vocab_size: "V",
        model.d_model: "D", BATCH: "B", SOURCE: "S", TARGET: "T", 1: "1",
    }  # fmt: skip
    root = Call("", "")
    stack, counter = [root], itertools.count()

    def record_call(kind, name, function, arguments, options):
        number = next(counter)
        call = Call(kind, name, numbers={number})
        stack[-1].inner.append(call)
        stack.append(call)
        try:
            arguments, options = _marked((arguments, options), f"in {number}")
            out = _marked(function(*arguments, **options), f"out {number}")
        finally:
            stack.pop()
        if hasattr(out, "shape"):
            call.shape = f"[{', '.join(letters.get(n, str(n)) for n in out.shape)}]"
        return out

    def method(following, arguments, options, context):
        name = context.method_name
        idle = name == "apply_dropout" and arguments[1] == 0
        passing = isinstance(context.module, PASSING) and name != "apply_dropout"
        if name in UNTRACED_METHODS or idle or passing:
            return following(*arguments, **options)
        kind = type(context.module).__name__ if name == "__call__" else name
        return record_call(kind, context.module.name or "", following, arguments, options)

    def watched(name, function):
        return lambda *arguments, **options: record_call(name, "", function, arguments, options)

    # The figures show the formulas, which the definition follows one by one.
    built = Transformer(replace(model, kernels="definition"))
    source, target = jnp.ones((BATCH, SOURCE), jnp.int32), jnp.ones((BATCH, TARGET), jnp.int32)
    shapes = jax.eval_shape(built.init, jax.random.key(0), source, target)
    with contextlib.ExitStack() as patches:
        for module, names in WATCHED:
            for name in names:
                function = watched(name, getattr(module, name))
                patches.enter_context(mock.patch.object(module, name, function))
        definition = KERNELS["definition"]
        unembed = watched("unembed", definition.unembed)
        seen = {"definition": definition._replace(unembed=unembed)}
        patches.enter_context(mock.patch.dict(KERNELS, seen))
        patches.enter_context(nn.intercept_methods(method))
        jaxpr = jax.make_jaxpr(built.apply)(shapes, source, target).jaxpr
    parameters: list[set[Origin]] = [set() for _ in jaxpr.invars[:-2]]
    marks: dict[str, set[Origin]] = defaultdict(set)
    _follow(jaxpr, [*parameters, {"source"}, {"target"}], marks)
    [top] = root.inner
    for call in top.all():
        [number] = call.numbers
        # What a function has from the scope around it is no argument: the calls inside read it.
        own = set().union(*(each.numbers for each in call.all()))
        call.reads = set().union(*(marks[f"in {each}"] for each in own)) - own
        call.returns = marks[f"out {number}"]
    return collapse_repeats(top)


def _marked(tree, mark: str):
    """The same arrays, of which the program knows the mark."""
    return jax.tree.map(lambda x: checkpoint_name(x, mark) if isinstance(x, jax.Array) else x, tree)


def _follow(jaxpr, inputs: Sequence[set[Origin]], marks: dict[str, set[Origin]]) -> list:
    """Origins of a program's outputs from those of its inputs; what reaches a mark is added to it.

    A call's output has no origin but the call.
    """
    reached = dict(zip(jaxpr.invars, inputs))

    def origins_of(variable) -> set[Origin]:
        return set() if isinstance(variable, Literal) else reached.get(variable, set())

    for equation in jaxpr.eqns:
        before = [origins_of(variable) for variable in equation.invars]
        outputs = [set().union(*before)] * len(equation.outvars)
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        if equation.primitive.name == "name":
            mark = equation.params["name"]
            marks[mark] |= outputs[0]
            side, number = mark.split()
            if side == "out":
                outputs = [{int(number)}]
        elif inner:
            outputs = _follow(inner[0], before, marks)
        reached.update(zip(equation.outvars, outputs))
    return [origins_of(variable) for variable in jaxpr.outvars]


def collapse_repeats(call: Call) -> Call:
    """Equal layers in a row, or pairs of calls that come again and again, as one with a number."""
    rest, found = list(map(collapse_repeats, call.inner)), []
    while rest:
        for period in (1, 2):
            unit, times = rest[:period], 1
            while _alike(unit, rest[times * period : (times + 1) * period]):
                times += 1
            if times > 1 and any("Layer" in each.kind and each.inner for each in unit):
                group, rest = rest[: times * period], rest[times * period :]
                numbers = set().union(*(each.numbers for each in group))
                reads = set().union(*(each.reads for each in group)) - numbers
                found.append(
                    Call("", "", unit[-1].shape, unit, times, numbers, reads, unit[-1].numbers)
                )
                break
        else:
            found.append(rest.pop(0))
    return replace(call, inner=found)


def _alike(some: list[Call], others: list[Call]) -> bool:
    return len(some) == len(others) and all(a.same(b) for a, b in zip(some, others))
