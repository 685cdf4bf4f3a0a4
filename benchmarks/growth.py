"""Decoding by beam, batch, length and vocabulary, beside those peers that are installed.

    python -m benchmarks.growth
    python -m benchmarks.growth --axis length --rounds 5

Random parameters, which the peers have as well or draw themselves, and targets as long as their
sources: the same work on every side, two threads, float32, interleaved. Where an axis does not say
otherwise: 4 + 4 layers, d_model 128, vocabulary 10,000, 64 sentences of 32 tokens, beam 4.
By size: that, base with vocabulary 32,000 on 200 sentences, and on one with greedy search; there
also ours in bfloat16, and CTranslate2 with its weights in int8.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import (
    OURS,
    OURS_NARROW,
    THREADS,
    Times,
    compare,
    find_torch,
    make_parser,
    publish_comparison,
)
from benchmarks.engine import Engine
from benchmarks.speed import marian, random_model
from experiments.ledger import Provenance, Table
from transformer_jax import build_model, presets
from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

__all__ = ["main"]


@dataclass(frozen=True)
class Work:
    """Sentences to decode."""

    beam: int = 4
    batch: int = 64
    length: int = 32
    vocabulary: int = 10_000
    size: str = "small"

    @property
    def config(self) -> ModelConfig:
        made = {"small": presets.multi30k, "base": presets.base}[self.size](self.vocabulary)
        return replace(made, dropout=0.0)


AXES: dict[str, list[Work]] = {
    "beam": [Work(beam=n) for n in (1, 2, 4, 8, 16)],
    "batch": [Work(batch=n) for n in (1, 4, 16, 64, 256)],
    # Fewer sentences, or the longest would take minutes.
    "length": [Work(length=n, batch=2) for n in (16, 64, 256, 1024, 2048)],
    "vocabulary": [Work(vocabulary=n) for n in (1_000, 4_000, 16_000, 64_000)],
    "size": [
        Work(),
        Work(size="base", vocabulary=32_000, batch=200),
        Work(size="base", vocabulary=32_000, batch=1, beam=1),
    ],
}


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--axis", choices=AXES, action="append", help="default: all")
    arguments = parser.parse_args()
    os.environ["NPROC"] = str(THREADS)
    for axis in arguments.axis or AXES:
        _publish(axis, arguments)


def _publish(axis: str, arguments) -> None:
    """Measure along an axis, and make an entry of it."""
    where = Provenance.here(
        f"python -m benchmarks.growth --axis {axis} --rounds {arguments.rounds}"
    )
    begin = time.perf_counter()
    found = [_measure(work, arguments.rounds, narrow=axis == "size") for work in AXES[axis]]
    peers = sorted({name for times in found for name in times} - {OURS})
    columns = [axis, f"{OURS}, s", *(f"{who}, s" for who in peers), *(f"{p} x" for p in peers)]
    rows: list[list[Any]] = []
    every = {}
    for work, times in zip(AXES[axis], found):
        value, ours = getattr(work, axis), times[OURS].median
        if axis == "size":
            value = f"{value}, {work.batch} sentences, beam {work.beam}"
        medians = [times[who].median for who in peers]
        rows.append([value, ours, *medians, *(each / ours for each in medians)])
        every |= {f"{axis} {value}, {who}": each for who, each in times.items()}
    wanted = {"CTranslate2": "ctranslate2", "Hugging Face": "transformers"}
    absent = [name for name, package in wanted.items() if find_spec(package) is None]
    publish_comparison(
        f"growth-{axis}",
        f"Decoding of fixed lengths by {axis}, {THREADS} threads",
        where.with_duration(time.perf_counter() - begin),
        [Table("", columns, rows)],
        f"not installed: {', '.join(absent)}" if absent else "nothing",
        every,
        arguments.results_dir,
    )


def _measure(work: Work, rounds: int, narrow: bool) -> dict[str, Times]:
    """Times of every side; where `narrow`, also in fewer bits than float32."""
    config = work.config
    rng = np.random.default_rng(0)
    sources = rng.integers(4, work.vocabulary, (work.batch, work.length)).tolist()
    network, variables = random_model(config)
    sides = {OURS: _ours(network, variables, sources, work)}
    if narrow:
        in_bfloat16 = build_model(replace(config, dtype="bfloat16"))
        sides[OURS_NARROW] = _ours(in_bfloat16, variables, sources, work)
    wanted = {work.batch * (work.length + eos) for eos in (0, 1)}  # EOS counted or not

    def check(written: dict[str, int]) -> None:
        if not wanted.issuperset(written.values()):
            raise UserError(f"{work}: not the same work on every side, in tokens: {written}")

    with tempfile.TemporaryDirectory() as folder:
        if find_spec("ctranslate2") is not None:
            name = f"CTranslate2 {version('ctranslate2')}"
            types = {name: "float32"} | ({f"{name}, int8": "int8"} if narrow else {})
            for side, kind in types.items():
                sides[side] = _ctranslate2(network, variables, sources, work, Path(folder), kind)
        if find_torch() and find_spec("transformers") is not None:
            name = f"Hugging Face {version('transformers')}"
            sides[name] = _hugging_face(config, sources, work)
        times, written = compare(sides, rounds, check)
    medians = {who: round(each.median, 3) for who, each in times.items()}
    print(f"{work}: seconds {medians}, tokens {written}", file=sys.stderr, flush=True)
    return times


def _ours(network, variables, sources, work: Work) -> Callable[[], int]:
    """Decode, and count the tokens written."""
    from transformer_jax.decoding.inference import BatchDecoder
    from transformer_jax.decoding.options import Search

    search = Search(beam_size=work.beam, extra_length=1, length_penalty="none")
    if work.beam == 1:
        search = Search(method="greedy", extra_length=1)
    decoder = BatchDecoder(network, variables)
    return lambda: sum(len(best[0].ids) for best in decoder.translate(sources, search))


def _ctranslate2(
    network, variables, sources, work: Work, folder: Path, compute_type: str
) -> Callable[[], int]:
    from transformer_jax import Translator
    from transformer_jax.data.vocabulary import WhitespaceVocabulary
    from transformer_jax.weights.ctranslate2 import write_ctranslate2

    vocabulary = WhitespaceVocabulary(f"t{i}" for i in range(4, work.vocabulary))
    write_ctranslate2(Translator(network, variables["params"], vocabulary), folder)
    engine = Engine(folder, compute_type)
    tokens = [vocabulary.tokens(ids) for ids in sources]

    def run():
        hypotheses = engine.translate(
            tokens, beam_size=work.beam, length_penalty=0, max_batch_size=4096,
            batch_type="tokens", max_decoding_length=work.length,
            min_decoding_length=work.length, max_input_length=0,
        )  # fmt: skip
        return sum(map(len, hypotheses))

    return run


def _hugging_face(config: ModelConfig, sources, work: Work) -> Callable[[], int]:
    import torch

    network = marian(config, positions=work.length + 2).eval()
    read = torch.tensor([[*ids, 1] for ids in sources])

    def run():
        with torch.inference_mode():
            found = network.generate(
                input_ids=read, attention_mask=torch.ones_like(read), num_beams=work.beam,
                do_sample=False, length_penalty=0.0, max_new_tokens=work.length,
                min_new_tokens=work.length,
            )  # fmt: skip
        return found[:, 1:].numel()

    return run


if __name__ == "__main__":
    run_program(main)
