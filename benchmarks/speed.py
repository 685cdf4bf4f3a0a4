"""One measurement of speed, ours or a peer's, printed as a line of JSON.

    python -m benchmarks.speed training base ours
    python -m benchmarks.speed training big "torch compiled"
    python -m benchmarks.speed training base cudnn --length 1024
    python -m benchmarks.speed decoding 32 transformers

All in bfloat16 with float32 parameters, dropout 0.1 (0.3 for big), full rows. Each measurement is
a process, so that none has memory or a warm compiler from the one before.
"""

import argparse
import gzip
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.steps import our_step, torch_step
from transformer_jax import presets
from transformer_jax.config import ModelConfig
from transformer_jax.config.model import Kernels

__all__ = ["TINY", "marian", "matmul_peak", "matmul_speed", "random_model", "step_flops"]

VOCABULARY = 37_000
# About 25,000 target tokens an update, section 5.1; length of a sentence a side.
ROWS, LENGTH = 784, 32
BEAM = 4
# What a model becomes where only the path is tried.
TINY: dict[str, Any] = {"d_model": 32, "d_ff": 64, "num_heads": 4, "num_layers": 1}


def model_of(name: str, tiny: bool, kernels: str = "auto") -> ModelConfig:
    config = {"base": presets.base, "big": presets.big}[name](VOCABULARY)
    config = replace(config, dtype="bfloat16", kernels=kernels)
    if tiny:
        config = replace(config, vocab_size=500, **TINY)
    return config


def step_flops(model: ModelConfig, rows: int, source: int, target: int) -> float:
    """Operations of the matrix products of a training step, forward and twice that back.

    A product of [n, k] and [k, m] is 2 n k m; attention and projections are counted whole.
    """
    width, inner = model.d_model, model.d_ff
    heads = model.num_heads * (model.key_size + model.value_size)
    # Parameters that each token of a side is multiplied with in a layer.
    own, cross, network = 2 * width * heads, width * heads, 2 * width * inner
    products = model.num_layers * (
        source * (own + network + cross) + target * (own + cross + network)
    )
    scores = model.num_layers * heads * (source**2 + target**2 + source * target)
    return 3.0 * rows * 2 * (products + scores + target * width * model.vocab_size)


def timed(step: Callable[[], Any], wait: Callable[[], Any], tiny: bool) -> dict[str, Any]:
    """Seconds a call: the median of five stretches, and the spread."""
    count, stretches = (2, 2) if tiny else (10, 5)
    for _ in range(3):
        step()
    wait()
    found = []
    for _ in range(stretches):
        start = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        found.append((time.perf_counter() - start) / count)
    return {
        "seconds_per_step": statistics.median(found),
        "fastest": min(found),
        "slowest": max(found),
    }


def matmul_peak(tiny: bool) -> float:
    """Operations a second of a bfloat16 product of square matrices in JAX."""
    return matmul_speed(512 if tiny else 8192, "bfloat16", tiny)


def matmul_speed(size: int, dtype: str, tiny: bool = False) -> float:
    """Operations a second of a product of square matrices in JAX.

    Args:
        size: Rows, and columns.
        dtype: Of the matrices.
        tiny: Whether to measure only shortly.
    """
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    scaled, product = x / size**0.5, jax.jit(jnp.matmul)
    last = [x]

    def step():
        last[0] = product(scaled, last[0])

    found = timed(step, lambda: last[0].block_until_ready(), tiny)
    return 2 * size**3 / found["seconds_per_step"]


def rows_of(tiny: bool, length: int) -> tuple[int, int]:
    """Rows of so many tokens that together are as many as ROWS of LENGTH; fewer where tiny."""
    return (16, length // 4) if tiny else (ROWS * LENGTH // length, length)


def train_ours(model: ModelConfig, tiny: bool, length: int, profile: Path | None) -> dict[str, Any]:
    import jax

    rows, length = rows_of(tiny, length)
    start = time.perf_counter()
    step = our_step(model, rows, length)
    compiled = time.perf_counter() - start
    found = timed(step.run, step.loss, tiny)
    if profile is not None:
        with jax.profiler.trace(str(profile), create_perfetto_trace=True):
            for _ in range(3):
                step.run()
            step.loss()
        found["profile"] = kernels(profile)
    stats = jax.devices()[0].memory_stats() or {}
    return found | {
        "target_tokens_per_second": rows * length / found["seconds_per_step"],
        "loss": step.loss(),
        "compile_seconds": compiled,
        "memory": {**step.memory, "peak": stats.get("peak_bytes_in_use")},
        "flops": step_flops(model, rows, length, length),
    }


def kernels(folder: Path) -> dict[str, Any]:
    """Of a trace of three steps: milliseconds a step of the device, and of its longest kernels."""
    [path] = sorted(folder.rglob("perfetto_trace.json.gz"))[-1:]
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    spent: Counter = Counter()
    for event in events:
        if event.get("ph") == "X" and "device" in processes.get(event["pid"], "").lower():
            spent[event["name"]] += event["dur"] / 3000
    return {"all": sum(spent.values()), "longest": dict(spent.most_common(30))}


def train_torch(model: ModelConfig, tiny: bool, length: int, compiled: bool) -> dict[str, Any]:
    import torch

    rows, length = rows_of(tiny, length)
    step = torch_step(model, rows, length, compiled)
    start = time.perf_counter()
    step.run()
    step.loss()
    first = time.perf_counter() - start
    found = timed(step.run, step.loss, tiny)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return found | {
        "target_tokens_per_second": rows * length / found["seconds_per_step"],
        "loss": step.loss(),
        "compile_seconds": first,
        "memory": {"peak": peak},
        "flops": step_flops(model, rows, length, length),
        "version": torch.__version__,
    }


def newstest_lengths(count: int, tiny: bool) -> list[int]:
    """Tokens of sentences as newstest has them: 28 in the middle, one in twenty beyond 60."""
    drawn = np.random.default_rng(0).lognormal(np.log(26), 0.52, count)
    return np.clip(drawn, 4, 40 if tiny else 120).astype(int).tolist()


def random_model(model: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """Our model of these sizes, and random variables of it."""
    import jax
    import jax.numpy as jnp

    from transformer_jax.models.transformer import Transformer

    network, one = Transformer(model), jnp.ones((1, 1), jnp.int32)
    return network, jax.jit(network.init)(jax.random.key(0), one, one)


def decode_ours(model: ModelConfig, sources: Sequence[list[int]], tiny: bool) -> dict[str, Any]:
    from transformer_jax.decoding.inference import BatchDecoder
    from transformer_jax.decoding.options import Search

    inference = BatchDecoder(*random_model(model))
    # Random parameters never end a sentence: all are as long as their source, with EOS.
    search = Search(
        beam_size=BEAM, extra_length=1, length_penalty="none",
        batch_tokens=1024 if tiny else 65_536,
    )  # fmt: skip
    written = [0]

    def step():
        found = inference.translate(sources, search)
        written[0] = sum(len(best[0].ids) + 1 for best in found)

    return _decoded(step, written, tiny)


def marian(model: ModelConfig, positions: int) -> Any:
    """Hugging Face's model of the same sizes, with random parameters, that never ends by itself."""
    import transformers

    settings = transformers.MarianConfig(
        vocab_size=model.vocab_size, d_model=model.d_model, encoder_layers=model.num_layers,
        decoder_layers=model.num_layers, encoder_ffn_dim=model.d_ff,
        decoder_ffn_dim=model.d_ff, encoder_attention_heads=model.num_heads,
        decoder_attention_heads=model.num_heads, activation_function="relu",
        scale_embedding=True, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        forced_eos_token_id=None, max_position_embeddings=positions,
        share_encoder_decoder_embeddings=True,
    )  # fmt: skip
    return transformers.MarianMTModel(settings)


def decode_transformers(
    model: ModelConfig, sources: Sequence[list[int]], tiny: bool
) -> dict[str, Any]:
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = marian(model, 512).to(device, torch.bfloat16).eval()
    width = max(map(len, sources)) + 1
    padded = torch.zeros(len(sources), width, dtype=torch.long)
    for row, ids in zip(padded, sources):
        row[: len(ids) + 1] = torch.tensor([*ids, 1])
    padded = padded.to(device)
    # The same work: each sentence ends at the length of its source, as ours do.
    limits = torch.tensor([len(ids) + 2 for ids in sources], device=device).repeat_interleave(BEAM)
    ends = torch.full((model.vocab_size,), -float("inf"), device=device)
    ends[1] = 0.0

    def end(read, scores):
        return torch.where((read.shape[1] >= limits - 1)[:, None], ends.to(scores.dtype), scores)

    written = [0]

    def step():
        with torch.inference_mode():
            found = network.generate(
                input_ids=padded,
                attention_mask=(padded != 0).long(),
                num_beams=BEAM,
                length_penalty=0.0,
                do_sample=False,
                max_new_tokens=width + 1,
                logits_processor=transformers.LogitsProcessorList([end]),
            )
        ended = found[:, 1:] == 1
        # Behind its first EOS a row is filled with more of them.
        written[0] = int((ended.cumsum(1) - ended.long() == 0).sum())

    return _decoded(step, written, tiny) | {"version": transformers.__version__}


def _decoded(step: Callable[[], None], written: list[int], tiny: bool) -> dict[str, Any]:
    """Seconds of the first call and of the median of later ones; each ends with tokens read."""
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    found = []
    for _ in range(1 if tiny else 3):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    seconds = statistics.median(found)
    return {
        "first_call_seconds": first,
        "seconds": seconds,
        "fastest": min(found),
        "slowest": max(found),
        "target_tokens": written[0],
        "target_tokens_per_second": written[0] / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=("training", "decoding"))
    parser.add_argument("size", help="base or big; for decoding, the number of sentences")
    peers = ("torch", "torch compiled", "transformers")
    parser.add_argument("who", choices=("ours", *get_args(Kernels), *peers))
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens a side, for training")
    parser.add_argument("--profile", type=Path, help="folder for a trace of three steps")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    tiny, who = arguments.tiny, arguments.who
    if arguments.work == "training":
        length = arguments.length
        if who.startswith("torch"):
            model = model_of(arguments.size, tiny)
            found = train_torch(model, tiny, length, compiled=who == "torch compiled")
        else:
            model = model_of(arguments.size, tiny, "auto" if who == "ours" else who)
            found = train_ours(model, tiny, length, arguments.profile)
    else:
        model = model_of("base", tiny)
        rng = np.random.default_rng(1)
        sources = [
            rng.integers(4, model.vocab_size, length).tolist()
            for length in newstest_lengths(int(arguments.size), tiny)
        ]
        decoded = decode_ours if who == "ours" else decode_transformers
        found = decoded(model, sources, tiny)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
