"""Figures 1 and 2: the model and its attention, drawn from the code that runs.

    python -m experiments.figures1_2_architecture --output runs/figures

Figure 1 is the tree of modules and functions that the base model calls, with the shapes that come
out of each; equal layers in a row are drawn once. Figure 2 is the jaxpr of scaled dot-product
attention, its primitives under the paper's names, beside the calls of a multi-head module. Boxes
stand in the order of calls, the first lowest; every line is a flow of data in the traced program.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.calls import BATCH, SOURCE, TARGET, Call, calls, dataflow_edges
from transformer_jax import functional, presets
from transformer_jax.config import ModelConfig
from transformer_jax.terminal import run_program

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
# Boxes that are drawn with what is inside them.
OPEN = ("encode", "decode", "", "EncoderLayer", "DecoderLayer", "residual")
COLOURS = {
    "MultiHeadAttention": "#ffd9b3", "attention_weights": "#ffd9b3", "apply_attention": "#ffd9b3",
    "FeedForward": "#cfe8f5", "LayerNorm": "#f3f0b0", "embed": "#f7d3dd", "unembed": "#dcdcf5",
    "sinusoids": "#ffffff", "Linear": "#dcdcf5", "MatMul": "#dcc9ea", "Scale": "#f3f0b0",
    "Mask (opt.)": "#f7d3dd", "SoftMax": "#cfe8d0", "merge_heads": "#f3f0b0",
    "split_heads": "#f3f0b0",
}  # fmt: skip


def boxes_of_attention() -> Call:
    """The boxes of figure 2: runs of primitives in the jaxpr of dot_product_attention."""
    query = jax.ShapeDtypeStruct((BATCH, TARGET, 8, 64), jnp.float32)
    key = jax.ShapeDtypeStruct((BATCH, SOURCE, 8, 64), jnp.float32)
    mask = jax.ShapeDtypeStruct((BATCH, 1, 1, SOURCE), jnp.bool_)
    jaxpr = jax.make_jaxpr(functional.dot_product_attention)(query, key, key, mask).jaxpr
    origin = dict(zip(jaxpr.invars, ("query", "key", "value", "mask")))
    found: list[Call] = []
    for equation in jaxpr.eqns:
        primitive = equation.params.get("name") or equation.primitive.name
        step = STEPS.get(primitive, primitive)
        if not found or found[-1].kind != step:
            found.append(Call(step, "", numbers={len(found)}))
        box, number = found[-1], len(found) - 1
        box.inner.append(Call(primitive, ""))
        origins_read = {origin[v] for v in equation.invars if not isinstance(v, Literal)}
        box.reads |= origins_read - {number}
        origin.update(dict.fromkeys(equation.outvars, number))
    return Call("dot_product_attention", "", inner=found, returns={origin[jaxpr.outvars[0]]})


# Of a box's line, between boxes, and from one line that passes boxes by to the next.
LINE, GAP, LANE = 0.42, 0.22, 0.13


def height(call: Call, opened: Sequence[str] = OPEN) -> float:
    """Of a call's box, drawn with what is inside it if its kind is one of `opened`."""
    if call.kind not in opened:
        return LINE
    return LINE + sum(height(each, opened) + GAP for each in call.inner) + GAP


def label(call: Call) -> str:
    if call.times > 1:
        return f"{call.times} ×"
    # Layers are numbered where they are called, but stand for all that are like them.
    name = "" if "Layer" in call.kind and call.kind != "LayerNorm" else call.name
    if call.kind == "residual":
        return "residual: Add & Norm"
    if call.kind == "apply_dropout":
        return "Dropout"
    return call.kind if name in ("", call.kind) else f"{name}: {call.kind}"


def draw_call(
    axes: Axes, call: Call, x: float, y: float, width: float, opened: Sequence[str] = OPEN
) -> float:
    """A box with what it calls inside, first call lowest; returns the top."""
    top = y + height(call, opened)
    is_open = call.kind in opened
    _box(axes, x, y, width, top - y, "#fafafa" if is_open else COLOURS.get(call.kind, "#f2f2f2"))
    label_y = top - LINE / 2
    size = 7 if call.times == 1 else 10
    axes.text(x + 0.1, label_y, label(call), va="center", fontsize=size)
    axes.text(
        x + width - 0.1, label_y, call.shape, va="center", ha="right", fontsize=6, color="0.4"
    )
    if is_open:
        inner = width - 0.3 - LANE * len(lanes(call))
        below = y + GAP
        ends = [(y, y)]  # of the boxes: bottom and top; the last is the input's
        for each in call.inner:
            above = draw_call(axes, each, x + 0.15, below, inner, opened)
            ends.insert(-1, (below, above))
            below = above + GAP
        draw_wires(axes, call, ends, top, x + 0.15, inner)
    return top


def lanes(call: Call) -> dict[int, int]:
    """Start -> number of the line, beside the boxes, of what passes some of them by."""
    starts = sorted({start for start, to in dataflow_edges(call) if to - start > 1})
    return {start: lane for lane, start in enumerate(starts, 1)}


def draw_wires(
    axes: Axes, call: Call, ends: Sequence[tuple[float, float]], top: float, x: float, width: float
) -> None:
    """Between boxes from x to x + width at `ends`, their bottoms and tops; up to the call's top."""
    middle, right, beside = x + width / 2, x + width, lanes(call)
    for start, to in dataflow_edges(call):
        if to - start == 1:
            if to < len(call.inner):
                _line(axes, [(middle, ends[start][1]), (middle, ends[to][0])])
            continue
        at = right + LANE * beside[start]
        begin = (at, ends[-1][0]) if start < 0 else (right, ends[start][1] - LINE / 4)
        path = [begin, (at, begin[1])]
        if to == len(call.inner):
            path.append((at, top))
        else:
            goal = ends[to][0] + LINE / 4
            path += [(at, goal), (right, goal)]
        _line(axes, path)


def _box(axes, x, y, width, height, colour):
    style = "round,pad=0,rounding_size=0.08"
    box = FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="0.35", lw=0.8
    )
    axes.add_patch(box)


def _line(axes, path):
    """Through these points, with an arrow's head at the last."""
    axes.plot(*zip(*path[:-1]), color="0.3", lw=0.9)
    arrow = {"arrowstyle": "-|>", "color": "0.3", "lw": 0.9, "shrinkA": 0, "shrinkB": 0,
             "mutation_scale": 7}  # fmt: skip
    axes.annotate("", path[-1], path[-2], arrowprops=arrow)


def figure1(model: ModelConfig) -> Figure:
    """Encoder and decoder beside each other, from the bottom upwards."""
    encode, decode = calls(model).inner
    width, bottom = 5.2, 0.5
    tallest = bottom + max(map(height, (encode, decode)))
    figure = Figure(figsize=(10.5, 0.62 * tallest), layout="constrained")
    axes = figure.add_subplot()
    for call, x in ((encode, 0.1), (decode, 6.0)):
        names = sorted(origins_read for origins_read in call.reads if isinstance(origins_read, str))
        axes.text(x + width / 2, 0, ", ".join(names), ha="center", fontsize=8)
        _line(axes, [(x + width / 2, 0.25), (x + width / 2, bottom)])
        top = draw_call(axes, call, x, bottom, width)
        if call is encode and encode.numbers <= decode.reads:
            between, into = 5.65, 6.3
            out = top - LINE / 2
            _line(axes, [(x + width, out), (between, out), (between, 0.25), (into, 0.25),
                         (into, bottom)])  # fmt: skip
    axes.set(xlim=(0, 11.3), ylim=(-0.2, tallest + 0.2))
    axes.axis("off")
    return figure


def figure2(model: ModelConfig) -> Figure:
    """Left the jaxpr of scaled dot-product attention, right what a multi-head module calls."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    attention = boxes_of_attention()
    for place, box in enumerate(attention.inner):
        y = 0.4 + place * 1.1
        _box(left, 1, y, 3.6, 0.75, COLOURS.get(box.kind, "#f2f2f2"))
        left.text(2.8, y + 0.5, box.kind, ha="center", va="center", fontsize=9)
        shown = ", ".join(dict.fromkeys(each.kind for each in box.inner))
        shown = shown if len(shown) < 48 else f"{shown[:46]}…"
        left.text(2.8, y + 0.2, shown, ha="center", va="center", fontsize=5.5, color="0.4")
        names = [name for name in ("query", "key", "value", "mask") if name in box.reads]
        for line, name in enumerate(names):
            at = y + 0.75 * (line + 1) / (len(names) + 1)
            left.text(0.6, at, name, ha="right", va="center", fontsize=8)
            _line(left, [(0.65, at), (1, at)])
    for start, to in dataflow_edges(attention):
        if start >= 0 and to < len(attention.inner):
            _line(left, [(2.8, 0.4 + start * 1.1 + 0.75), (2.8, 0.4 + to * 1.1)])
    left.set(xlim=(-0.2, 5), ylim=(-0.1, 0.4 + 1.1 * len(attention.inner)))
    left.set_title("scaled dot-product attention: the jaxpr", fontsize=9)
    sublayer = next(c for c in calls(model).all() if c.kind == "residual")
    opened = ("a sub-layer", "keys_values", "MultiHeadAttention")
    parts = [call for call in sublayer.inner if call.kind in opened]
    module = Call(opened[0], "", inner=parts, returns=parts[-1].numbers)
    draw_call(right, module, 0.2, 0.4, 4.6, opened)
    right.set(xlim=(0, 5), ylim=(-0.1, 0.6 + height(module, opened)))
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
    run_program(main)
