"""The audit: every number of the paper that needs no training, computed again.

    python -m experiments.audit         about a minute on a CPU

Table 3's parameters, Table 2's training cost, Table 1, the peaks of the learning rate and the
speed, from this package's own code: shapes, compiled FLOPs, traced programs, and searches of the
graph of what depends on what. Then what the paper cannot have meant.
"""

import functools
import math
import time
from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp

from experiments import table3_variations
from experiments.complexity import complexity_table, count
from experiments.ledger import Cell, Entry, Provenance, Table
from experiments.program import make_parser, publish_result
from transformer_jax import OptimizerConfig, Transformer, presets
from transformer_jax.config import ModelConfig
from transformer_jax.data.batching import BatchShape
from transformer_jax.devices.layout import Layout
from transformer_jax.tasks import Task
from transformer_jax.terminal import run_program
from transformer_jax.training.runners import SingleDeviceRunner
from transformer_jax.training.schedule import warmup_schedule

# Rows of the table in tensor2tensor: its 32,000 merges end up as 37,000 pieces, padded.
ROWS_OF_RECORD, ROWS_OF_TEXT, ROWS_FOR_BIG = 40_960, 37_000, 36_000
# Section 5.2 and table 2: devices, hours, seconds a step, steps, and what the paper prints.
DEVICES, P100 = 8, 9.5e12
TRAINING = {
    "base": {"hours": 12.0, "step": 0.4, "steps": 100_000, "flops": 3.3e18},
    "big": {"hours": 84.0, "step": 1.0, "steps": 300_000, "flops": 2.3e19},
}
# A batch has about so many tokens a side (section 5.1); a sentence of WMT about 30.
BATCH_TOKENS, SENTENCE = 25_000, 30


@functools.cache
def _without_table(row: str) -> int:
    return count(replace(presets.run_config(f"table3-{row}").model, vocab_size=1))


def count_of_row(row: str, vocab_size: int) -> int:
    """Parameters of a row of Table 3; its only leaf of `vocab_size` rows is the shared table."""
    width = presets.run_config(f"table3-{row}").model.d_model
    return _without_table(row) + (vocab_size - 1) * width


def fitting_tables(rows: Iterable[str]) -> range:
    """All sizes of the table with which every row's count rounds to what the paper prints.

    ValueError for a row of which it prints none.
    """
    low, high = 1, 10**6
    for row in rows:
        paper = table3_variations.PAPER[row].millions
        if paper is None:
            raise ValueError(f"the paper prints no parameters of row {row}")
        model = presets.run_config(f"table3-{row}").model
        without = count_of_row(row, 0)
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


@functools.cache
def flops_per_token(model: ModelConfig, rows: int = 32) -> float:
    """FLOPs of a training step a target token, of sentences of SENTENCE tokens a side.

    Of the step as it is given to the compiler, which takes seconds; a multiply-add is two.
    """
    # The definition has no loops, of which the compiler would count one round.
    network = Transformer(replace(model, kernels="definition"))
    functions = Task().step_functions(network, OptimizerConfig(), seed=0)
    step = SingleDeviceRunner(functions, Layout(jax.devices()[:1]))
    lowered = step.lower(BatchShape(rows, SENTENCE, SENTENCE))
    return lowered.cost_analysis()["flops"] / (rows * SENTENCE)


def peak(name: str) -> float:
    """The highest learning rate of a preset."""
    config = presets.run_config(name)
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
            [f"{name}: peak of the learning rate", None, f"{peak(name):.2e}"],
        ]  # fmt: skip
    return Table("Table 2 and section 5: cost, speed, learning rate", ["of", "paper", "ours"], rows)


def discrepancy_table() -> Table:
    """What the paper says, and what stands against it or explains it."""
    printed = {row: p.millions for row, p in table3_variations.PAPER.items() if p.millions}
    sizes = fitting_tables(row for row in printed if row != "big")
    of_big = fitting_tables(["big"])
    fits = sum(
        round(count_of_row(row, ROWS_OF_TEXT) / 1e6) == paper for row, paper in printed.items()
    )
    rows_a = [row for row in presets.TABLE_3 if row == "base" or row.startswith("A-")]
    parameters = {count_of_row(row, ROWS_OF_TEXT) for row in rows_a}
    work = [flops_per_token(presets.run_config(f"table3-{row}").model) for row in rows_a]
    known = TRAINING["base"]
    hours = known["steps"] * known["step"] / 3600
    step = known["hours"] * 3600 / known["steps"]
    rows = [
        ["a shared vocabulary of about 37,000 (5.1)",
         f"{fits} of {len(printed)} parameter counts of table 3 fit {ROWS_OF_TEXT:,} rows; all but "
         f"big's fit {sizes[0]:,} to {sizes[-1]:,}, as do the {ROWS_OF_RECORD:,} of the code of "
         "record"],
        ["big has 213 million parameters (table 3)",
         f"only with another table: {of_big[0]:,} to {of_big[-1]:,} rows; with {ROWS_OF_RECORD:,} "
         f"it has {count_of_row('big', ROWS_OF_RECORD) / 1e6:.1f} million"],
        ["rows A keep the amount of computation constant (6.2)",
         f"{'the same number of' if len(parameters) == 1 else 'OTHER'} parameters; FLOPs a token, "
         f"softmax and all, within {max(work) / min(work) - 1:.1%} of each other"],
        ["100,000 steps or 12 hours (5.2), 0.4 s a step",
         f"0.4 s a step make {hours:.1f} hours; 12 hours make {step:.2f} s a step"],
        ["BLEU 41.0 for en-fr (6.1, text) and 41.8 (table 2)",
         "one of them is left over from another version; nothing to count decides it"],
        ["WMT 2014 data for en-de (5.1)",
         "tensor2tensor reads News Commentary v11, which is WMT16's; WMT14's is v9"],
        ["a sustained 9.5 TFLOP/s a P100 (6.1, footnote)",
         "more than the steps need: see the counted share above"],
    ]  # fmt: skip
    return Table("What the paper says, and the evidence", ["the paper", "evidence"], rows)


def audit() -> list[Table]:
    return [parameters_table(), complexity_table(), cost_table(), discrepancy_table()]


def _yes(agrees: bool | None) -> str | None:
    return None if agrees is None else "yes" if agrees else "NO"


def main() -> None:
    parser = make_parser(__doc__, "runs")
    arguments = parser.parse_args()
    start, where = time.perf_counter(), Provenance.here("python -m experiments.audit")
    tables = audit()
    missing = "nothing that needs no training"
    where = where.with_duration(time.perf_counter() - start)
    found = Entry("audit", "What needs no training, computed again", where, tables, missing)
    publish_result("audit", found, arguments)


if __name__ == "__main__":
    run_program(main)
