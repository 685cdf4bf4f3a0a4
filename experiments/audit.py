"""The audit: every number of the paper that needs no training, computed again.

    python -m experiments.audit         under a minute on a CPU

Table 3's parameters, Table 2's training cost, Table 1's self-attention and restricted rows, the
peaks of the learning rate and the speed, from this package's own code: shapes, compiled FLOPs, and
searches of the graph of what depends on what. Then what the paper cannot have meant.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from experiments import table3_variations
from experiments.ledger import RESULTS, Cell, Entry, Table, Where, record
from transformer_jax import OptimizerConfig, Transformer, functional, presets
from transformer_jax.cli import at_a_terminal
from transformer_jax.config import ModelConfig
from transformer_jax.data.batching import Shape
from transformer_jax.parallel import Layout
from transformer_jax.training.runners import JitStep
from transformer_jax.training.schedule import warmup_schedule
from transformer_jax.training.step import make_step

# Rows of the table in the code of record: its 32,000 merges end up as 37,000 pieces, padded.
ROWS_OF_RECORD, ROWS_OF_TEXT, ROWS_FOR_BIG = 40_960, 37_000, 36_000
# Section 5.2 and table 2: devices, hours, seconds a step, steps, and what the paper prints.
DEVICES, P100 = 8, 9.5e12
TRAINING = {
    "base": {"hours": 12.0, "step": 0.4, "steps": 100_000, "flops": 3.3e18, "peak": 6.99e-4},
    "big": {"hours": 84.0, "step": 1.0, "steps": 300_000, "flops": 2.3e19, "peak": 4.94e-4},
}
# A batch has about so many tokens a side (section 5.1); a sentence of WMT about 30.
BATCH_TOKENS, SENTENCE = 25_000, 30


def count(model: ModelConfig) -> int:
    """Parameters of a model, from shapes alone."""
    tokens = jnp.ones((1, 2), jnp.int32)
    shapes = jax.eval_shape(Transformer(model).init, jax.random.key(0), tokens, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@functools.cache
def _without_table(row: str) -> int:
    return count(replace(presets.recipe(f"table3-{row}").model, vocab_size=1))


def count_of_row(row: str, vocab_size: int) -> int:
    """Parameters of a row of Table 3; its only leaf of `vocab_size` rows is the shared table."""
    width = presets.recipe(f"table3-{row}").model.d_model
    return _without_table(row) + (vocab_size - 1) * width


def fitting_tables(rows: Iterable[str]) -> range:
    """All sizes of the table with which every row's count rounds to what the paper prints."""
    low, high = 1, 10**6
    for row in rows:
        paper = table3_variations.PAPER[row].millions or 0
        model = presets.recipe(f"table3-{row}").model
        without = count_of_row(row, 1) - model.d_model
        # Half a million either way of the printed number.
        low = max(low, math.ceil((paper * 10**6 - 500_000 - without) / model.d_model))
        high = min(high, math.ceil((paper * 10**6 + 500_000 - without) / model.d_model) - 1)
    return range(low, high + 1)


def parameters_table() -> Table:
    """Table 3's last column at three sizes of the shared table."""
    sizes = (ROWS_OF_RECORD, ROWS_OF_TEXT, ROWS_FOR_BIG)
    rows: list[list[Cell]] = []
    for row, printed in table3_variations.PAPER.items():
        cells: list[Cell] = [row, printed.millions]
        for size in sizes:
            millions = count_of_row(row, size) / 1e6
            agrees = None if printed.millions is None else round(millions) == printed.millions
            cells += [millions, _yes(agrees)]
        rows.append(cells)
    columns = [name for size in sizes for name in (f"{size:,} rows", "agrees")]
    return Table("Table 3: parameters in millions", ["row", "paper", *columns], rows)


def flops_per_token(model: ModelConfig, rows: int = 32) -> float:
    """FLOPs of a training step a target token, of sentences of SENTENCE tokens a side.

    Of the step as it is given to the compiler, which takes seconds; a multiply-add is two.
    """
    functions = make_step(Transformer(model), OptimizerConfig(), seed=0)
    step = JitStep(functions, Layout(jax.devices()[:1]))
    lowered = step.lower(Shape(rows, SENTENCE, SENTENCE))
    return lowered.cost_analysis()["flops"] / (rows * SENTENCE)


def peak(name: str) -> float:
    """The highest learning rate of a preset."""
    config = presets.recipe(name)
    warmup = config.optimizer.warmup_steps
    schedule = warmup_schedule(config.model.d_model, warmup)
    return float(jnp.max(schedule(jnp.arange(2 * warmup))))


def cost_table() -> Table:
    """Table 2's last column, by the paper's own product and by counting operations; and speed."""
    rows: list[list[Cell]] = []
    for name, known in TRAINING.items():
        product = known["hours"] * 3600 * DEVICES * P100
        token = flops_per_token(getattr(presets, name)(ROWS_OF_TEXT))
        counted = token * BATCH_TOKENS * known["steps"]
        hours = known["steps"] * known["step"] / 3600
        rows += [
            [f"{name}: FLOPs, as hours x {DEVICES} x 9.5e12", f"{known['flops']:.1e}",
             f"{product:.2e}"],
            [f"{name}: FLOPs, counted", f"{known['flops']:.1e}", f"{counted:.2e}"],
            [f"{name}: FLOPs a target token, counted", None, f"{token:.2e}"],
            [f"{name}: counted, of hours x {DEVICES} x 9.5e12", None, f"{counted / product:.0%}"],
            [f"{name}: hours, as steps x seconds a step", f"{known['hours']:.0f}", f"{hours:.1f}"],
            [f"{name}: target tokens a second", None, f"{BATCH_TOKENS / known['step']:,.0f}"],
            [f"{name}: peak of the learning rate", f"{known['peak']:.2e}", f"{peak(name):.2e}"],
        ]  # fmt: skip
    return Table("Table 2 and section 5: cost, speed, learning rate", ["of", "paper", "ours"], rows)


def restricted_attention(query, key, value, neighbours: int):
    """Self-attention to the `neighbours` positions around each, without computing the others.

    query, key, value [T, K] -> [T, K]; `neighbours` is odd. Section 4's r.
    """
    length, radius = len(query), neighbours // 2
    around = jnp.arange(length)[:, None] + jnp.arange(-radius, radius + 1)[None]
    there = (around >= 0) & (around < length)
    # Each position is a batch of its own, with one query and its neighbours' keys.
    keys, values = (x[jnp.clip(around, 0, length - 1)][:, :, None] for x in (key, value))
    mask = there[:, None, None]
    found = functional.dot_product_attention(query[:, None, None], keys, values, mask)
    return found[:, 0, 0]


def full_attention(query, key, value):
    """query, key, value [T, K] -> [T, K]; every position attends to all."""
    found = functional.dot_product_attention(*(x[None, :, None] for x in (query, key, value)))
    return found[0, :, 0]


def flops(layer: Callable, length: int, width: int) -> float:
    """What the compiled layer computes."""
    x = jax.ShapeDtypeStruct((length, width), jnp.float32)
    analysis: Any = jax.jit(layer).lower(x, x, x).compile().cost_analysis()
    return analysis["flops"]


def depth(layer: Callable, length: int, width: int = 8) -> int:
    """Longest chain of operations in which each waits for the one before."""
    x = jax.ShapeDtypeStruct((length, width), jnp.float32)
    return _depth(jax.make_jaxpr(layer)(x, x, x).jaxpr)


def _depth(jaxpr) -> int:
    reached: dict[Any, int] = {}
    for equation in jaxpr.eqns:
        variables = [v for v in equation.invars if not isinstance(v, Literal)]
        before = max((reached.get(v, 0) for v in variables), default=0)
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        steps = equation.params.get("length", 1)  # of a scan
        own = sum(map(_depth, inner)) * steps if inner else 1
        reached.update(dict.fromkeys(equation.outvars, before + own))
    return max(reached.values(), default=0)


def longest_path(layer: Callable, length: int) -> int:
    """Most layers that a signal passes from one position to another, by breadth-first search.

    Two positions are one layer apart where the layer's derivative between them is not zero.
    """
    x = jax.random.normal(jax.random.key(0), (length, 4))
    derivative = jax.jacobian(lambda x: layer(x, x, x))(x)  # [T, K, S, K]
    near = np.abs(np.asarray(derivative)).max(axis=(1, 3)) > 0
    reached, layers = np.eye(length, dtype=bool), 0
    while not reached.all():
        further = reached @ near
        if (further == reached).all():
            raise ValueError("positions that no number of layers connects")
        reached, layers = further, layers + 1
    return layers


def growth(measure: Callable[..., float], sizes: tuple[int, ...], at: int) -> float:
    """Power with which a measure grows in one of its sizes, from doubling it."""
    doubled = tuple(2 * size if place == at else size for place, size in enumerate(sizes))
    return math.log2(measure(*doubled) / measure(*sizes))


def complexity_table() -> Table:
    """Table 1's two rows of attention: powers of n, d and r, measured by doubling each."""
    n, d, radius = 256, 256, 16

    def full_cost(n, d):
        return flops(full_attention, n, d)

    def restricted_cost(n, d, radius):
        return flops(restricted(radius), n, d)

    def restricted_path(n, radius):
        return longest_path(restricted(radius), n + 1)

    rows = []
    for name, formula, powers in (
        ("self-attention", "n^2 d", [growth(full_cost, (n, d), at) for at in (0, 1)]),
        ("restricted", "r n d", [growth(restricted_cost, (n, d, radius), at) for at in (0, 1, 2)]),
    ):
        shown = " ".join(f"{letter}^{power:.2f}" for letter, power in zip("ndr", powers))
        rows.append([name, "operations a layer", formula, shown])
    for name, layer in (("self-attention", full_attention), ("restricted", restricted(4))):
        depths = [depth(layer, n) for n in (16, 64, 256)]
        same = "1" if len(set(depths)) == 1 else "grows"
        shown = f"{depths[0]} for n = 16, 64, 256" if same == "1" else str(depths)
        rows.append([name, "operations one after another", "1", shown])
    paths = [longest_path(full_attention, n) for n in (17, 33, 65)]
    rows.append(["self-attention", "longest path", "1", ", ".join(map(str, paths))])
    powers = [growth(restricted_path, (32, 2), at) for at in (0, 1)]
    shown = " ".join(f"{letter}^{power:.2f}" for letter, power in zip("nr", powers))
    rows.append(["restricted", "longest path", "n / r", shown])
    title = f"Table 1: growth when one size doubles (n {n}, d {d}, r {2 * radius + 1})"
    return Table(title, ["layer", "of", "paper", "ours"], rows)


def restricted(radius: int) -> Callable:
    return lambda q, k, v: restricted_attention(q, k, v, 2 * radius + 1)


def doubts_table() -> Table:
    """What the paper says and cannot have meant, with the evidence."""
    named = [row for row, printed in table3_variations.PAPER.items() if printed.millions]
    small = [row for row in named if row != "big"]
    sizes, of_big = fitting_tables(small), fitting_tables(["big"])
    fits = sum(
        round(count_of_row(row, ROWS_OF_TEXT) / 1e6) == table3_variations.PAPER[row].millions
        for row in named
    )
    base = count_of_row("base", ROWS_OF_TEXT)
    constant = {count_of_row(row, ROWS_OF_TEXT) for row in presets.TABLE_3 if row[:2] == "A-"}
    hours = TRAINING["base"]["steps"] * TRAINING["base"]["step"] / 3600
    rows = [
        ["a shared vocabulary of about 37,000 (5.1)",
         f"no: {fits} of {len(named)} parameter counts of table 3 fit {ROWS_OF_TEXT:,} rows; all "
         f"but big's fit {sizes[0]:,} to {sizes[-1]:,}, as do the {ROWS_OF_RECORD:,} of the code "
         "of record"],
        ["big has 213 million parameters (table 3)",
         f"only with another table: {of_big[0]:,} to {of_big[-1]:,} rows; with {ROWS_OF_RECORD:,} "
         f"it has {count_of_row('big', ROWS_OF_RECORD) / 1e6:.1f} million"],
        ["rows A keep the amount of computation constant (6.2)",
         "yes: each has base's number of parameters to the unit" if constant == {base} else "NO"],
        ["100,000 steps or 12 hours (5.2)",
         f"0.4 s a step make {hours:.1f} hours: a step took 0.43 s, or the 12 hours hold more"],
        ["BLEU 41.0 for en-fr (6.1, text) and 41.8 (table 2)",
         "one of them is wrong, and no count decides which; later versions of the abstract say "
         "41.8"],
        ["WMT 2014 data for en-de (5.1)",
         "the code of record reads News Commentary v11, which is WMT16's; WMT14's is v9"],
        ["a sustained 9.5 TFLOP/s a P100 (6.1, footnote)",
         "an upper bound, not a measurement: see the share counted above"],
    ]  # fmt: skip
    return Table("What the paper cannot have meant", ["the paper", "evidence"], rows)


def audit() -> list[Table]:
    return [parameters_table(), complexity_table(), cost_table(), doubts_table()]


def _yes(agrees: bool | None) -> str | None:
    return None if agrees is None else "yes" if agrees else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the ledger")
    arguments = parser.parse_args()
    start = time.perf_counter()
    tables = audit()
    for table in tables:
        print(f"{table.markdown()}\n")
    seconds = time.perf_counter() - start
    missing = "table 1's recurrent and convolutional rows"
    where = Where.here("python -m experiments.audit", seconds)
    found = Entry("audit", "What needs no training, computed again", where, tables, missing)
    print(record("audit", found, arguments.output))


if __name__ == "__main__":
    with at_a_terminal():
        main()
