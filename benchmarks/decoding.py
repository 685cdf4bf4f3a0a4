"""Decoding of real text on this machine, beside CTranslate2 where it is installed.

    python -m benchmarks.decoding --run-dir runs/demo/run --source test.en
    python -m benchmarks.decoding --run-dir runs/demo/run --source test.en --beam-size 1 --rounds 9

Text in and text out, in the file's order. The weights, the text, the beam, the batches (by tokens)
and two threads are the same on both sides. Before anything is timed the outputs are compared.
Rounds are interleaved; the median of each side, its spread and the ratio of the medians are shown.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["main"]

THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True, help="one sentence per line")
    parser.add_argument("--beam-size", type=int, default=4, help="1: greedy search")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lines", type=int, help="of the file; default: all")
    parser.add_argument("--output", type=Path, help="JSON file of what was measured")
    arguments = parser.parse_args()
    os.environ.setdefault("NPROC", str(THREADS))
    lines = arguments.source.read_text(encoding="utf-8").splitlines()[: arguments.lines]
    with tempfile.TemporaryDirectory() as folder:
        sides = make_sides(arguments.run_dir, arguments.beam_size, Path(folder))
        found = compare(sides, lines, arguments.rounds)
    found |= {"lines": len(lines), "beam_size": arguments.beam_size, "threads": THREADS}
    print_table(found)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


def make_sides(
    run_dir: Path, beam_size: int, folder: Path
) -> dict[str, Callable[[list[str]], list[str]]]:
    """Name -> a function that translates lines; ours is the first."""
    from transformer_jax import Search, Translator

    translator = Translator.load(run_dir)
    method: Any = "greedy" if beam_size == 1 else "beam"
    search = Search(method=method, beam_size=beam_size, length_penalty="power", eos_rule="t2t")
    sides: dict[str, Callable[[list[str]], list[str]]] = {
        "transformer_jax": lambda lines: translator.translate(
            lines, search, split_sentences="never"
        )
    }
    if find_spec("ctranslate2") is None:
        print("ctranslate2 is not installed: ours alone is measured", file=sys.stderr)
        return sides
    import ctranslate2

    from benchmarks.ctranslate2 import write_folder

    write_folder(translator, folder)
    vocabulary = translator.vocabulary

    def peer(compute_type: str) -> Callable[[list[str]], list[str]]:
        engine = ctranslate2.Translator(
            str(folder), compute_type=compute_type, inter_threads=1, intra_threads=THREADS
        )
        ids = {token: i for i, token in enumerate(vocabulary.tokens(range(len(vocabulary))))}

        def translate(lines: list[str]) -> list[str]:
            sources = [vocabulary.tokens(vocabulary.encode(line)) for line in lines]
            found = engine.translate_batch(
                sources, beam_size=beam_size, length_penalty=search.alpha, max_batch_size=4096,
                batch_type="tokens", max_decoding_length=256,
            )  # fmt: skip
            return [vocabulary.decode([ids[t] for t in each.hypotheses[0]]) for each in found]

        return translate

    return sides | {f"CTranslate2 {kind}": peer(kind) for kind in ("float32", "int8")}


def compare(
    sides: dict[str, Callable[[list[str]], list[str]]], lines: list[str], rounds: int
) -> dict[str, Any]:
    """Time every side on the same lines, the first call apart, the others interleaved."""
    cold, outputs = {}, {}
    for name, translate in sides.items():
        start = time.perf_counter()
        outputs[name] = translate(lines)
        cold[name] = time.perf_counter() - start
    ours = outputs["transformer_jax"]
    equal = {name: sum(map(str.__eq__, ours, found)) for name, found in outputs.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, translate in sides.items():
            start = time.perf_counter()
            translate(lines)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "sides": {
            name: {
                "seconds": medians[name], "least": min(times[name]), "most": max(times[name]),
                "cold": cold[name], "equal": equal[name],
                "ratio": medians[name] / medians["transformer_jax"],
            }
            for name in sides
        }
    }  # fmt: skip


def print_table(found: dict[str, Any]) -> None:
    """Print a row for each side; a ratio above 1 says how much faster ours is."""
    print(f"{found['lines']} lines, beam {found['beam_size']}, {found['threads']} threads")
    print(f"{'':24} {'seconds':>8} {'least':>7} {'most':>7} {'cold':>7} {'ours x':>7} equal lines")
    for name, row in found["sides"].items():
        numbers = (row[key] for key in ("seconds", "least", "most", "cold", "ratio"))
        print("{:24} {:8.2f} {:7.2f} {:7.2f} {:7.2f} {:7.2f} ".format(name, *numbers), row["equal"])


if __name__ == "__main__":
    main()
