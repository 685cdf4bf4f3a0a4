"""Figures 1 and 2: the model and its attention, drawn from the code that runs.

    python -m experiments.figures1_2_architecture --output runs/figures

Figure 1 is the tree of modules and functions that the base model calls, with the shapes that come
out of each; equal layers in a row are drawn once. Figure 2 is the jaxpr of scaled dot-product
attention, its primitives under the paper's names, beside the calls of a multi-head module. Nothing
is drawn that was not called.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from transformer_jax import Transformer, functional, presets
from transformer_jax.cli import at_a_terminal
from transformer_jax.config import ModelConfig
from transformer_jax.functional import attention
from transformer_jax.models import layers, transformer

# Sizes that differ from each other and from the model's, so that a shape tells its letters.
BATCH, SOURCE, TARGET = 2, 5, 7
# Functions to see besides the modules: where they are looked up, and their names there.
WATCHED = (
    (transformer, ("embed", "sinusoids", "causal_mask", "padding_mask", "unembed")),
    (layers, ("feed_forward", "layer_norm")),
    (attention, ("split_heads", "attention_weights", "attend", "merge_heads")),
)
# Primitive of the jaxpr -> the box of figure 2 that it belongs to.
STEPS = {
    "dot_general": "MatMul",
    "transpose": "MatMul",
    "mul": "Scale",
    "_where": "Mask (opt.)",
    **dict.fromkeys(
        ("reduce_max", "max", "broadcast_in_dim", "stop_gradient", "sub", "exp", "reduce_sum",
         "div"),
        "SoftMax",
    ),
}  # fmt: skip
# Methods that are no step of the flow: setup, and what only calls one function that is watched.
HIDDEN = ("setup", "dropout_rng", "_embed", "_positions", "_logits")
# Boxes that are drawn with what is inside them.
OPEN = ("", "EncoderLayer", "DecoderLayer", "residual")
COLOURS = {
    "MultiHeadAttention": "#ffd9b3", "attention_weights": "#ffd9b3", "attend": "#ffd9b3",
    "FeedForward": "#cfe8f5", "LayerNorm": "#f3f0b0", "embed": "#f7d3dd", "unembed": "#dcdcf5",
    "sinusoids": "#ffffff", "Projection": "#dcdcf5", "MatMul": "#dcc9ea", "Scale": "#f3f0b0",
    "Mask (opt.)": "#f7d3dd", "SoftMax": "#cfe8d0", "merge_heads": "#f3f0b0",
    "split_heads": "#f3f0b0",
}  # fmt: skip


@dataclass
class Call:
    """A module or function that was called: kind, name, what came out, what it called in turn."""

    kind: str
    name: str
    shape: str = ""
    inner: list["Call"] = field(default_factory=list)
    times: int = 1

    def same(self, other: "Call") -> bool:
        """Equal but for the number in its name."""
        return (self.kind, self.shape, len(self.inner)) == (
            other.kind, other.shape, len(other.inner),
        ) and all(a.same(b) for a, b in zip(self.inner, other.inner))  # fmt: skip

    def all(self) -> Iterator["Call"]:
        yield self
        for each in self.inner:
            yield from each.all()


def calls(model: ModelConfig) -> Call:
    """What a forward pass calls, in order; shapes only, nothing is computed."""
    root = Call("Transformer", "")
    letters = {
        BATCH: "B", SOURCE: "S", TARGET: "T", model.d_model: "D", model.d_ff: "F",
        model.num_heads: "H", model.key_size: "K", model.vocab_size: "V",
    }  # fmt: skip
    stack = [root]

    def seen(kind, name, function):
        call = Call(kind, name)
        stack[-1].inner.append(call)
        stack.append(call)
        try:
            out = function()
        finally:
            stack.pop()
        if hasattr(out, "shape"):
            call.shape = f"[{', '.join(letters.get(n, str(n)) for n in out.shape)}]"
        return out

    def method(following, arguments, options, context):
        if context.method_name in HIDDEN:
            return following(*arguments, **options)
        kind = type(context.module).__name__
        name = context.module.name or ""
        if context.method_name != "__call__":
            kind = context.method_name
        return seen(kind, name, lambda: following(*arguments, **options))

    def watched(name, function):
        return lambda *a, **o: seen(name, "", lambda: function(*a, **o))

    built = Transformer(model)
    source, target = jnp.ones((BATCH, SOURCE), jnp.int32), jnp.ones((BATCH, TARGET), jnp.int32)
    shapes = jax.eval_shape(built.init, jax.random.key(0), source, target)
    with contextlib.ExitStack() as patches:
        for module, names in WATCHED:
            for name in names:
                function = watched(name, getattr(module, name))
                patches.enter_context(mock.patch.object(module, name, function))
        patches.enter_context(nn.intercept_methods(method))
        jax.eval_shape(built.apply, shapes, source, target)
    return folded(root.inner[0])


def folded(call: Call) -> Call:
    """Equal layers in a row, or pairs of calls that come again and again, as one with a number."""
    rest, found = list(map(folded, call.inner)), []
    while rest:
        for period in (1, 2):
            unit, times = rest[:period], 1
            while _alike(unit, rest[times * period : (times + 1) * period]):
                times += 1
            if times > 1 and any("Layer" in each.kind and each.inner for each in unit):
                found.append(Call("", "", unit[-1].shape, unit, times))
                rest = rest[times * period :]
                break
        else:
            found.append(rest.pop(0))
    return Call(call.kind, call.name, call.shape, found, call.times)


def _alike(some: list[Call], others: list[Call]) -> bool:
    return len(some) == len(others) and all(a.same(b) for a, b in zip(some, others))


def boxes_of_attention() -> list[tuple[str, list[str]]]:
    """(box of figure 2, its primitives) in the order of the jaxpr of dot_product_attention."""
    query = jax.ShapeDtypeStruct((BATCH, TARGET, 8, 64), jnp.float32)
    key = jax.ShapeDtypeStruct((BATCH, SOURCE, 8, 64), jnp.float32)
    mask = jax.ShapeDtypeStruct((BATCH, 1, 1, SOURCE), jnp.bool_)
    jaxpr = jax.make_jaxpr(functional.dot_product_attention)(query, key, key, mask)
    found: list[tuple[str, list[str]]] = []
    for equation in jaxpr.eqns:
        primitive = equation.params.get("name") or equation.primitive.name
        step = STEPS.get(primitive, primitive)
        if found and found[-1][0] == step:
            found[-1][1].append(primitive)
        else:
            found.append((step, [primitive]))
    return found


LINE, GAP = 0.42, 0.16


def height(call: Call, opened: Sequence[str] = OPEN) -> float:
    """Of a call's box, drawn with what is inside it if its kind is one of `opened`."""
    if call.kind not in opened:
        return LINE
    return LINE + sum(height(each, opened) + GAP for each in call.inner) + GAP


def label(call: Call) -> str:
    # Layers are numbered where they are called, but stand for all that are like them.
    name = "" if "Layer" in call.kind and call.kind != "LayerNorm" else call.name
    if call.kind == "residual":
        return "residual: Add & Norm"
    if call.kind == "drop":
        return "Dropout"
    return call.kind if name in ("", call.kind) else f"{name}: {call.kind}"


def draw_call(
    axes: Axes, call: Call, x: float, y: float, width: float, opened: Sequence[str] = OPEN
) -> float:
    """A box with what it calls inside, first call lowest; returns the top."""
    top = y + height(call, opened)
    is_open = call.kind in opened
    _box(axes, x, y, width, top - y, "#fafafa" if is_open else COLOURS.get(call.kind, "#f2f2f2"))
    shown = label(call)
    label_y = top - LINE / 2
    axes.text(x + 0.1, label_y, shown, va="center", fontsize=7)
    axes.text(
        x + width - 0.1, label_y, call.shape, va="center", ha="right", fontsize=6, color="0.4"
    )
    if call.times > 1:
        axes.text(x - 0.12, (y + top) / 2, f"{call.times} ×", va="center", ha="right", fontsize=11)
    if is_open:
        below = y + GAP
        for each in call.inner:
            below = draw_call(axes, each, x + 0.15, below, width - 0.3, opened) + GAP
    return top


def _box(axes, x, y, width, height, colour):
    style = "round,pad=0,rounding_size=0.08"
    box = FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="0.35", lw=0.8
    )
    axes.add_patch(box)


def _arrow(axes, x, y, to, to_x=None):
    """From (x, y) straight up, or to another x."""
    ends = ((x if to_x is None else to_x, to), (x, y))
    axes.annotate("", *ends, arrowprops={"arrowstyle": "-|>", "color": "0.3", "lw": 0.9})


def figure1(model: ModelConfig) -> Figure:
    """Encoder and decoder beside each other, from the bottom upwards."""
    sides = [call for call in calls(model).inner if call.kind in ("encode", "decode")]
    tallest = max(sum(height(c) + 0.35 for c in side.inner) for side in sides)
    figure = Figure(figsize=(9, 0.62 * tallest + 1), layout="constrained")
    axes = figure.add_subplot()
    memory = 0.0  # where the encoder ends
    for place, side in enumerate(sides):
        x, y, width = 0.6 + 5.4 * place, 0.5, 4.4
        inputs = "source [B, S]" if side.kind == "encode" else "target, shifted [B, T]"
        axes.text(x + width / 2, 0, inputs, ha="center", fontsize=8)
        _arrow(axes, x + width / 2, 0.25, y)
        for call in side.inner:
            if y > 0.5:
                _arrow(axes, x + width / 2, y - 0.35, y)
            if place == 1 and call.times > 1:  # the memory goes into every layer's keys and values
                _arrow(axes, 5.05, memory, y + GAP + LINE / 2, x + 0.15)
            y = draw_call(axes, call, x, y, width) + 0.35
        memory = y - 0.35
        axes.text(x + width / 2, y - 0.2, side.kind + " " + side.shape, ha="center", fontsize=8)
    axes.set(xlim=(-0.2, 10.8), ylim=(-0.3, tallest + 1))
    axes.axis("off")
    return figure


def figure2(model: ModelConfig) -> Figure:
    """Left the jaxpr of scaled dot-product attention, right what a multi-head module calls."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    boxes = boxes_of_attention()
    for place, (name, primitives) in enumerate(boxes):
        y = 0.4 + place * 1.1
        _box(left, 0.5, y, 4, 0.75, COLOURS.get(name, "#f2f2f2"))
        left.text(2.5, y + 0.5, name, ha="center", va="center", fontsize=9)
        shown = ", ".join(dict.fromkeys(primitives))
        shown = shown if len(shown) < 52 else f"{shown[:50]}…"
        left.text(2.5, y + 0.2, shown, ha="center", va="center", fontsize=5.5, color="0.4")
        _arrow(left, 2.5, y - 0.35 if place else 0, y)
    left.text(2.5, -0.25, "query, key, (mask), value", ha="center", fontsize=8)
    left.set(xlim=(0, 5), ylim=(-0.6, 0.4 + 1.1 * len(boxes)))
    left.set_title("scaled dot-product attention: the jaxpr", fontsize=9)
    module = next(c for c in calls(model).all() if c.kind == "MultiHeadAttention")
    keys = next(c for c in calls(model).all() if c.kind == "keys_values")
    y = 0.4
    for call in (keys, module):
        y = draw_call(right, call, 0.4, y, 4.2, (call.kind,)) + 0.4
    right.set(xlim=(0, 5), ylim=(-0.6, max(y, 4)))
    right.set_title("multi-head attention: what the module calls", fontsize=9)
    for axes in (left, right):
        axes.axis("off")
    return figure


def save(figures: dict[str, Figure], output: Path) -> None:
    """Each by its name as .png and .svg."""
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            path = output / f"{name}.{kind}"
            figure.savefig(path, dpi=150)
            print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/figures"), help="folder to write")
    arguments = parser.parse_args()
    save({draw.__name__: draw(presets.base()) for draw in (figure1, figure2)}, arguments.output)


if __name__ == "__main__":
    with at_a_terminal():
        main()
