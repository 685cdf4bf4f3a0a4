"""Attention, forward and backward, by length: its kernels, and torch where it is installed.

    python -m benchmarks.attention
    python -m benchmarks.attention --length 512 --length 2048

Causal, float32, 8 heads of 64, two threads, as many sentences as make 4,096 tokens, interleaved.
The second table has the memory that the compiler reports for a training step of the base model on
one sentence; nothing of it is run.
"""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.comparison import (
    OURS,
    THREADS,
    Times,
    compare,
    find_torch,
    make_parser,
    publish_comparison,
    times_table,
)
from benchmarks.steps import our_step
from experiments.ledger import Provenance, Table
from transformer_jax import presets
from transformer_jax.terminal import run_program

__all__ = ["main"]

TOKENS, HEADS, SIZE = 4096, 8, 64
KERNELS = ("definition", "compact", "blockwise")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--length", type=int, action="append", help="default: 64 to 4,096")
    arguments = parser.parse_args()
    os.environ["NPROC"] = str(THREADS)
    lengths = arguments.length or [64, 256, 1024, 2048, 4096]
    command = "".join(f" --length {each}" for each in arguments.length or [])
    where = Provenance.here(f"python -m benchmarks.attention{command} --rounds {arguments.rounds}")
    torch = find_torch()
    begin = time.perf_counter()
    tables: list[Table] = []
    every: dict[str, Times] = {}
    for length in lengths:
        table, times = _measure(length, torch, arguments.rounds)
        tables.append(table)
        every |= {f"{length}, {side}": each for side, each in times.items()}
    rows = [[length, *(_step_memory(length, each) for each in KERNELS)] for length in lengths]
    title = "Temporary memory of a step of base, one sentence, vocabulary 32,000, GB"
    tables.append(Table(title, ["tokens a side", *KERNELS], rows))
    publish_comparison(
        "attention",
        f"Attention by length, {THREADS} threads",
        where.with_duration(time.perf_counter() - begin),
        tables,
        "nothing" if torch else "torch, which is not installed",
        every,
        arguments.results_dir,
    )


def _measure(length: int, torch: str | None, rounds: int) -> tuple[Table, dict[str, Times]]:
    """Times of every side on sentences of one length."""
    shape = max(1, TOKENS // length), length, HEADS, SIZE
    rng = np.random.default_rng(0)
    query, key, value, weights = (rng.normal(size=shape).astype(np.float32) for _ in range(4))
    sides: dict[str, Callable[[], Any]] = {}
    memory: dict[str, str] = {}
    for name in KERNELS:
        program, temporary = _program(name, length, query, key, value, weights)
        side = OURS if name == "compact" else f"{OURS}, {name}"
        sides[side], memory[side] = program, f"{temporary / 1e6:.0f} MB"
    if torch is not None:
        sides[torch] = _torch_program(query, key, value, weights)
    times, _ = compare(sides, rounds)
    title = f"{shape[0]} sentences of {length} tokens"
    return times_table(title, times, {"temporary": memory}), times


def _program(name: str, length: int, *arrays: np.ndarray) -> tuple[Callable[[], Any], int]:
    """Attention by one of our kernels with its gradients, and the bytes that it needs."""
    import jax

    from transformer_jax.functional import causal_mask
    from transformer_jax.models.kernels import KERNELS as FUNCTIONS

    query, key, value, weights = map(jax.device_put, arrays)
    mask = causal_mask(length)

    def total(query, key, value):
        return (FUNCTIONS[name].attention(query, key, value, mask) * weights).sum()

    gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    compiled = gradients.lower(query, key, value).compile()
    run = functools.partial(compiled, query, key, value)
    return lambda: jax.block_until_ready(run()), compiled.memory_analysis().temp_size_in_bytes


def _torch_program(*arrays: np.ndarray) -> Callable[[], Any]:
    import torch

    query, key, value, weights = (torch.tensor(x).transpose(1, 2).contiguous() for x in arrays)
    for each in (query, key, value):
        each.requires_grad_()

    def run():
        attend = torch.nn.functional.scaled_dot_product_attention
        total = (attend(query, key, value, is_causal=True) * weights).sum()
        return torch.autograd.grad(total, (query, key, value))

    return run


def _step_memory(length: int, kernels: str) -> float:
    model = replace(presets.base(32_000), kernels=kernels)
    return our_step(model, 1, length).memory["temporary"] / 1e9


if __name__ == "__main__":
    run_program(main)
