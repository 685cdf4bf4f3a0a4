"""Scale on paper: docs/scaling.md from compiled steps and a table of hardware.

    python -m benchmarks.scaling compile      # docs/scaling.json: 18 steps compiled, none is run
    python -m benchmarks.scaling write        # docs/scaling.md from it

Operations, traffic and memory are what the CPU's compiler writes for so many virtual devices;
peak rates are those of data sheets. No step is timed.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
# The paper's batch: about 25,000 tokens a side, here sentences of 32.
ROWS, LENGTH = 768, 32
MESHES = {
    1: [(1, 1, 1)],
    8: [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)],
    64: [(64, 1, 1), (1, 64, 1), (8, 8, 1), (8, 1, 8)],
}
V5E = "https://cloud.google.com/tpu/docs/v5e"
# Dense bfloat16 FLOP/s; memory, bytes; bytes a second that a chip sends to its neighbours, how many
# chips are such neighbours, and bytes a second beyond them.
HARDWARE: dict[str, dict[str, Any]] = {
    "H100 SXM": {
        "peak": 989.4e12, "memory": 80e9, "near": 450e9, "group": 8, "far": 50e9,
        "source": "NVIDIA H100 data sheet (half of 1,979 TFLOP/s with sparsity; NVLink 900 GB/s "
        "both ways), DGX H100 (400 Gbit/s a GPU)",
    },
    "A100 SXM": {
        "peak": 312e12, "memory": 80e9, "near": 300e9, "group": 8, "far": 25e9,
        "source": "NVIDIA A100 data sheet (NVLink 600 GB/s both ways), DGX A100 (200 Gbit/s a GPU)",
    },
    "TPU v5e": {
        "peak": 197e12, "memory": 16e9, "near": 200e9, "group": 256, "far": 3.1e9,
        "source": f"{V5E} (400 GB/s both ways between chips; 6.4 Tbit/s for 256 chips beyond)",
    },
}  # fmt: skip


def compile_all() -> None:
    os.environ["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=64 --xla_backend_optimization_level=0"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from transformer_jax import OptimizerConfig, Transformer, presets
    from transformer_jax.data.batching import BatchShape
    from transformer_jax.devices.layout import Layout
    from transformer_jax.devices.traffic import collective_traffic
    from transformer_jax.tasks import Task
    from transformer_jax.training.runners import MeshRunner, SingleDeviceRunner

    cases = []
    for name, preset in (("base", presets.base()), ("big", presets.big())):
        # The definition has no loops, of which the compiler would count one round.
        network = Transformer(replace(preset, kernels="definition"))
        functions = Task().step_functions(network, OptimizerConfig(), seed=0)
        params = sum(leaf.size for leaf in jax.tree.leaves(functions.shapes().params))
        for count, meshes in MESHES.items():
            for sizes in meshes:
                layout = Layout(jax.devices()[:count], *sizes)
                step = (SingleDeviceRunner if count == 1 else MeshRunner)(functions, layout)
                compiled = step.lower(BatchShape(ROWS, LENGTH, LENGTH)).compile()
                memory = compiled.memory_analysis()
                found = collective_traffic(compiled, layout) if count > 1 else {}
                case = {
                    "model": name,
                    "parameters": params,
                    "mesh": dict(layout.sizes),
                    "flops": compiled.cost_analysis()["flops"],
                    "kept": step.state_bytes,
                    "temporary": memory.temp_size_in_bytes,
                    "traffic": [
                        {"kind": kind, "axes": axes, "calls": one.calls, "bytes": one.bytes}
                        for (kind, axes), one in sorted(found.items())
                    ],
                }
                cases.append(case)
                print(name, layout, f"{case['flops']:.3g} FLOP, {memory.temp_size_in_bytes:,} B")
    tree = {"jax": jax.__version__, "rows": ROWS, "length": LENGTH, "cases": cases}
    (DOCS / "scaling.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def sent(case: dict, axis: str | None = None) -> float:
    """Bytes that a device sends in a step, along one axis of the mesh or all."""
    from transformer_jax.devices.traffic import Traffic

    total = 0.0
    for one in case["traffic"]:
        if axis in (None, *one["axes"]):
            devices = 1
            for name in one["axes"]:
                devices *= case["mesh"][name]
            total += Traffic(one["calls"], one["bytes"]).sent(one["kind"], devices)
    return total


def seconds(case: dict, chip: dict) -> tuple[float, float]:
    """(computing, sending) of a step at the peak rates of a chip."""
    waiting, stride = 0.0, 1
    sizes = case["mesh"]
    # Devices count along tensor first, so that its groups are nearest neighbours.
    for axis in ("tensor", "fsdp", "data"):
        near = stride * sizes[axis] <= chip["group"]
        waiting += _own(case, axis) / chip["near" if near else "far"]
        stride *= sizes[axis]
    return case["flops"] / chip["peak"], waiting


def _own(case: dict, axis: str) -> float:
    """What is sent along an axis and, of several at once, counted with the outermost."""
    order = ("data", "fsdp", "tensor")
    mine = [t for t in case["traffic"] if min(t["axes"], key=order.index) == axis]
    return sent({**case, "traffic": mine})


HEAD = """# Scale on paper

Written by `python -m benchmarks.scaling write` from docs/scaling.json, which
`python -m benchmarks.scaling compile` made: no number here is typed, none is a measured time.
Operations, memory and traffic are the compiler's own account of one training step (JAX {jax},
float32, {rows} sentences of {length} + {length} tokens: {tokens:,} a side, the paper's batch) for
virtual CPU devices; a GPU's or TPU's compiler fuses more and needs less temporary memory.
Rates are those of data sheets, which no real step reaches: read times as bounds and ratios as what
to expect.

## What a device does in a step

| model | devices | mesh | TFLOP | state, MB | temporary, MB | sends along data, MB | along fsdp |
along tensor | all in theory |
|---|---|---|---|---|---|---|---|---|---|
"""
THEORY = """
Sending is counted for rings: an array of n bytes that d devices reduce costs each of them
2 n (d - 1) / d; gathered or scattered, n (d - 1) / d. In theory, data reduces the float32 gradient;
fsdp gathers the parameters and scatters the gradient; tensor reduces activations [B, T, D] after
each of the five sub-layers of an encoder layer and a decoder layer, there and back (Shoeybi et al.
2019, section 3), which leaves out embedding and loss. Traffic across several axes at once
counts with the outermost of them.

## Bounds on time and efficiency

Computing and sending, each alone at its peak rate. Efficiency is the time of one device divided by
the number of devices and by the time of a step: low where nothing is sent while computing, high
where all of it is.

| chip | model | mesh | computing, ms | sending, ms | efficiency, low to high |
|---|---|---|---|---|---|
"""
LIMITS = """
## Where each axis stops paying

Tokens (a side) that each device must be given for computing to last as long as sending, at peak
rates: with fewer, devices send for longer than they compute. A step that reaches 40% of the peak
needs 40% of these tokens.

| chip | model | data, 8 devices | data, 64 | fsdp, 8 | fsdp, 64 | tensor, 8 |
|---|---|---|---|---|---|---|
"""
HARDWARE_HEAD = """
What tensor sends grows with the tokens as computing does, so more tokens do not help it: it pays
where its ratio is below 1. The paper trained on {tokens_8:,} tokens a side for each of its 8 GPUs.

## Hardware

| chip | peak, TFLOP/s (bfloat16, dense) | memory, GB | to neighbours, GB/s one way | neighbours |
beyond, GB/s | source |
|---|---|---|---|---|---|---|
"""


def write() -> None:
    (DOCS / "scaling.md").write_text(report(), encoding="utf-8")


def report() -> str:
    """docs/scaling.md, from docs/scaling.json."""
    tree = json.loads((DOCS / "scaling.json").read_text(encoding="utf-8"))
    cases = tree.pop("cases")
    tokens = tree["rows"] * tree["length"]
    text = _unwrapped(HEAD.format(**tree, tokens=tokens))
    for case in cases:
        along = [f"{_own(case, axis) / 1e6:,.1f}" for axis in ("data", "fsdp", "tensor")]
        text += _row(
            case["model"], _devices(case), _mesh(case), f"{case['flops'] / 1e12:.3f}",
            f"{case['kept'] / 1e6:,.0f}", f"{case['temporary'] / 1e6:,.0f}", *along,
            f"{_theory(case, tokens) / 1e6:,.1f}",
        )  # fmt: skip
    text += THEORY
    for chip, rates in HARDWARE.items():
        for case in cases:
            computing, sending = seconds(case, rates)
            alone = _find(cases, case["model"], (1, 1, 1))
            ideal = alone["flops"] / rates["peak"] / _devices(case)
            low, high = ideal / (computing + sending), ideal / max(computing, sending)
            times = (f"{computing * 1e3:.2f}", f"{sending * 1e3:.2f}")
            text += _row(chip, case["model"], _mesh(case), *times, f"{low:.0%} to {high:.0%}")
    text += LIMITS
    for chip, rates in HARDWARE.items():
        for model in ("base", "big"):
            needed = []
            for sizes in ((8, 1, 1), (64, 1, 1), (1, 8, 1), (1, 64, 1)):
                case = _find(cases, model, sizes)
                computing, sending = seconds(case, rates)
                needed.append(f"{tokens / _devices(case) * sending / computing:,.0f}")
            computing, sending = seconds(_find(cases, model, (1, 1, 8)), rates)
            ratio = f"sends {sending / computing:.1f} times as long as it computes"
            text += _row(chip, model, *needed, ratio)
    text += _unwrapped(HARDWARE_HEAD.format(tokens_8=tokens // 8))
    for chip, rates in HARDWARE.items():
        text += _row(
            chip, f"{rates['peak'] / 1e12:,.1f}", f"{rates['memory'] / 1e9:.0f}",
            f"{rates['near'] / 1e9:.0f}", rates["group"], f"{rates['far'] / 1e9:.1f}",
            rates["source"],
        )  # fmt: skip
    return text


def _row(*cells) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def _unwrapped(text: str) -> str:
    """A table's head on one line."""
    return text.replace(" |\nalong", " | along").replace(" |\nbeyond", " | beyond")


def _theory(case: dict, tokens: int) -> float:
    """Bytes that the textbook sends for data, fsdp and tensor together."""
    sizes, params = case["mesh"], 4 * case["parameters"]
    data, fsdp, tensor = (sizes[name] for name in ("data", "fsdp", "tensor"))
    params /= tensor
    width = {"base": 512, "big": 1024}[case["model"]]
    activations = 4 * 2 * tokens * width / (data * fsdp)  # there and back
    return (
        2 * params / fsdp * (data - 1) / data
        + 2 * params * (fsdp - 1) / fsdp
        + 2 * 6 * (2 + 3) * activations * (tensor - 1) / tensor
    )


def _devices(case: dict) -> int:
    count = 1
    for size in case["mesh"].values():
        count *= size
    return count


def _mesh(case: dict) -> str:
    used = [f"{name}={size}" for name, size in case["mesh"].items() if size > 1]
    return ",".join(used) or "one device"


def _find(cases: list[dict], model: str, sizes: tuple[int, int, int]) -> dict:
    return next(c for c in cases if c["model"] == model and tuple(c["mesh"].values()) == sizes)


if __name__ == "__main__":
    {"compile": compile_all, "write": write}[sys.argv[1]]()
