"""Training steps on this machine, beside torch where it is installed.

    python -m benchmarks.training
    python -m benchmarks.training --work small --rounds 9

The same shapes, tokens, dropout and two threads on both sides, interleaved, in float32 and in
bfloat16. Ours is measured with the kernels of a new run, and with the definitions. The share of the
peak is that of the operations of all matrix products, counted once, in what a product of large
matrices of float32 reaches in the same process. Then the loss and its gradients alone, from the
features of the last layer.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import replace

from benchmarks.comparison import (
    OURS,
    OURS_NARROW,
    THREADS,
    Times,
    compare,
    find_torch,
    make_parser,
    publish_comparison,
    times_table,
)
from benchmarks.speed import matmul_speed, step_flops
from benchmarks.steps import Step, our_loss, our_step, torch_loss, torch_step
from experiments.ledger import Provenance, Table
from transformer_jax import presets
from transformer_jax.config import ModelConfig
from transformer_jax.terminal import run_program

__all__ = ["main"]

# Name -> (model, sentences, tokens of a sentence a side).
WORK: dict[str, tuple[ModelConfig, int, int]] = {
    "small": (presets.multi30k(10_000), 64, 32),
    "base": (presets.base(32_000), 32, 32),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--work", choices=WORK, action="append", help="default: all")
    arguments = parser.parse_args()
    os.environ["NPROC"] = str(THREADS)
    work = arguments.work or list(WORK)
    command = "".join(f" --work {each}" for each in arguments.work or [])
    where = Provenance.here(f"python -m benchmarks.training{command} --rounds {arguments.rounds}")
    torch = find_torch()
    begin = time.perf_counter()
    tables: list[Table] = []
    every: dict[str, Times] = {}
    for name in work:
        for part, measure in (("", _measure), ("loss, ", _measure_loss)):
            table, times = measure(name, torch, arguments.rounds)
            tables.append(table)
            every |= {f"{name}, {part}{side}": each for side, each in times.items()}
    publish_comparison(
        "training",
        f"Training: a step, {THREADS} threads",
        where.with_duration(time.perf_counter() - begin),
        tables,
        "nothing" if torch else "torch, which is not installed",
        every,
        arguments.results_dir,
    )


def _measure(name: str, torch: str | None, rounds: int) -> tuple[Table, dict[str, Times]]:
    """Times of every side on one work."""
    model, rows, length = WORK[name]
    steps = {
        OURS: our_step(model, rows, length),
        f"{OURS}, definitions": our_step(replace(model, kernels="definition"), rows, length),
        OURS_NARROW: our_step(replace(model, dtype="bfloat16"), rows, length),
    }
    if torch is not None:
        steps[torch] = torch_step(model, rows, length)
        steps[f"{torch}, bfloat16"] = torch_step(replace(model, dtype="bfloat16"), rows, length)

    times, _ = compare({side: step.take for side, step in steps.items()}, rounds)
    peak, flops = matmul_speed(2048, "float32"), step_flops(model, rows, length, length)
    shares = {side: f"{flops / each.median / peak:.0%}" for side, each in times.items()}
    speeds = {side: round(rows * length / each.median) for side, each in times.items()}
    further = {
        "target tokens/s": speeds,
        "share of the peak": shares,
        "temporary": _temporary_memory(steps),
    }
    title = (
        f"{name}: {model.num_layers} + {model.num_layers} layers, d_model {model.d_model}, "
        f"vocabulary {model.vocab_size:,}, {rows} sentences of {length} tokens a side, "
        f"dropout {model.dropout}; peak {peak / 1e9:.0f} GFLOP/s"
    )
    return times_table(title, times, further), times


def _temporary_memory(steps: Mapping[str, Step]) -> dict[str, str | None]:
    """What the compiler says of each side, where there is one that says so."""
    return {
        side: f"{step.memory['temporary'] / 1e6:.0f} MB" if step.memory else None
        for side, step in steps.items()
    }


def _measure_loss(name: str, torch: str | None, rounds: int) -> tuple[Table, dict[str, Times]]:
    """Times of the loss and its gradients, in float32."""
    model, rows, length = WORK[name]
    steps = {
        OURS: our_loss(model, rows, length),
        f"{OURS}, definitions": our_loss(replace(model, kernels="definition"), rows, length),
    }
    if torch is not None:
        steps[torch] = torch_loss(model, rows, length)
    times, _ = compare({side: step.take for side, step in steps.items()}, rounds)
    title = f"{name}: the loss of {rows * length:,} tokens and its gradients, float32"
    return times_table(title, times, {"temporary": _temporary_memory(steps)}), times


if __name__ == "__main__":
    run_program(main)
