"""Decoding of real text on this machine, beside CTranslate2 where it is installed.

    python -m benchmarks.decoding --run-dir runs/demo/run --source test.en
    python -m benchmarks.decoding --run-dir runs/demo/run --source test.en --beam-size 1 --rounds 9

Text in and text out, in the file's order. The weights, the text, the beam and two threads are the
same on both sides; each has its own batches. Then the translations are scored, given their sources.
The outputs of the first call are compared before others are timed, and how many programs of ours
were compiled is counted. Beside float32 stand bfloat16 on our side and int8 on the other.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.comparison import (
    OURS,
    OURS_NARROW,
    THREADS,
    compare,
    make_parser,
    publish_comparison,
    times_table,
)
from benchmarks.engine import Engine
from experiments.ledger import Provenance
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

__all__ = ["main"]

# Share of the lines that float32 must translate as ours does: ties and roundings cost some.
LEAST_EQUAL = 0.95


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True, help="one sentence per line")
    parser.add_argument("--beam-size", type=int, default=4, help="1: greedy search")
    parser.add_argument("--lines", type=int, help="of the file; default: all")
    parser.add_argument("--name", help="file name of the result; default: decoding-beam-N")
    arguments = parser.parse_args()
    os.environ["NPROC"] = str(THREADS)
    from transformer_jax import Search, Translator

    name = arguments.name or f"decoding-beam-{arguments.beam_size}"
    lines = arguments.source.read_text(encoding="utf-8").splitlines()[: arguments.lines]
    where = Provenance.here(
        f"python -m benchmarks.decoding --run-dir {arguments.run_dir} --source {arguments.source} "
        f"--beam-size {arguments.beam_size} --rounds {arguments.rounds}"
        + (f" --lines {arguments.lines}" if arguments.lines else "")
    )
    start = time.perf_counter()
    translator = Translator.load(arguments.run_dir)
    ours = {OURS: translator, OURS_NARROW: Translator.load(arguments.run_dir, dtype="bfloat16")}
    method: Any = "greedy" if arguments.beam_size == 1 else "beam"
    # CTranslate2 divides by length^alpha, and keeps the beam full.
    search = Search(
        method=method, beam_size=arguments.beam_size, length_penalty="power", eos_rule="t2t"
    )
    with tempfile.TemporaryDirectory() as folder:
        peers = make_peers(translator, search, Path(folder))
        translating: dict[str, Callable] = {
            who: lambda each=each: each.translate(lines, search, split_sentences="never")
            for who, each in ours.items()
        }
        translating |= {who: lambda peer=peer: peer(lines) for who, (peer, _) in peers.items()}
        times, outputs = compare(translating, arguments.rounds, check_outputs)
        translations = outputs[OURS]
        scoring = {
            who: lambda each=each: each.score(lines, translations) for who, each in ours.items()
        }
        scoring |= {
            who: lambda score=score: score(lines, translations) for who, (_, score) in peers.items()
        }
        scoring_times, _ = compare(scoring, arguments.rounds)
    equal = count_equal(outputs)
    programs = {who: each._inference.program_count for who, each in ours.items()}
    title = f"{len(lines)} lines, beam {arguments.beam_size}, {THREADS} threads"
    publish_comparison(
        name,
        f"Decoding: {title}",
        where.with_duration(time.perf_counter() - start),
        [
            times_table(title, times, {"equal lines": equal, "programs": programs}),
            times_table("Scoring of the same translations", scoring_times),
        ],
        "nothing" if peers else "ctranslate2, which is not installed",
        {**times, **{f"scoring, {who}": each for who, each in scoring_times.items()}},
        arguments.results_dir,
    )


def count_equal(outputs: dict[str, list[str]]) -> dict[str, int]:
    """Lines of each side that are as ours."""
    return {who: sum(map(str.__eq__, outputs[OURS], found)) for who, found in outputs.items()}


def check_outputs(outputs: dict[str, list[str]]) -> None:
    """Raise UserError unless float32 translates as ours does; others differ by their roundings."""
    narrow = ("int8", "bfloat16")
    equal = {who: n for who, n in count_equal(outputs).items() if not who.endswith(narrow)}
    if min(equal.values()) < LEAST_EQUAL * len(outputs[OURS]):
        raise UserError(
            f"lines that each side translates as ours, of {len(outputs[OURS])}: {equal}; fewer "
            f"than {LEAST_EQUAL:.0%} is not the same work"
        )


def make_peers(translator, search, folder: Path) -> dict[str, tuple[Callable, Callable]]:
    """Name -> a function that translates lines, and one that scores translations of lines."""
    if find_spec("ctranslate2") is None:
        print("ctranslate2 is not installed: ours alone is measured", file=sys.stderr)
        return {}
    from transformer_jax.weights.ctranslate2 import write_ctranslate2

    write_ctranslate2(translator, folder)
    vocabulary = translator.vocabulary
    numbers = {token: i for i, token in enumerate(vocabulary.tokens(range(len(vocabulary))))}

    def tokens(lines: list[str]) -> list[list[str]]:
        return [vocabulary.tokens(vocabulary.encode(line)) for line in lines]

    def peer(compute_type: str) -> tuple[Callable, Callable]:
        engine = Engine(folder, compute_type)
        batches: dict[str, Any] = {"max_batch_size": 4096, "batch_type": "tokens"}

        def translate(lines: list[str]) -> list[str]:
            hypotheses = engine.translate(
                tokens(lines), beam_size=search.beam_size, length_penalty=search.alpha,
                max_decoding_length=256, **batches,
            )  # fmt: skip
            return [vocabulary.decode([numbers[t] for t in each]) for each in hypotheses]

        def score(lines: list[str], translations: list[str]) -> list[float]:
            log_probs = engine.score(tokens(lines), tokens(translations), **batches)
            return [sum(each) for each in log_probs]

        return translate, score

    release = version("ctranslate2")
    return {f"CTranslate2 {release}, {kind}": peer(kind) for kind in ("float32", "int8")}


if __name__ == "__main__":
    run_program(main)
