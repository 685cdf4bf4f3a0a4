"""Multi30k in bfloat16 beside float32: the same batches and seeds, two precisions.

    python -m experiments.precision --data ../shared/data/multi30k

In bfloat16 activations, products and their gradients have 8 bits of precision; parameters, the
optimizer's state and sums of a softmax have 24 in both. The recipe is that of
`experiments.multi30k --recipe cpu` on raw text, 4,000 updates, two seeds; the last checkpoint is
scored. A run that is finished is not run again: the same command resumes where it was stopped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments import multi30k
from experiments.claims import mean_of
from experiments.ledger import Cell, Entry, Provenance, Table, merge_provenance
from experiments.multi30k import CaptionTask, caption_task
from experiments.program import check_positive, make_parser, publish_result
from experiments.table1_layers import find_speeds
from experiments.tasks import find_all
from transformer_jax.config.model import Dtype
from transformer_jax.terminal import run_program

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
SCORES = ("perplexity", "BLEU", "BLEU test2016")
STEPS, SEEDS = 4000, 2


def make_works(arguments: argparse.Namespace) -> dict[str, list[CaptionTask]]:
    """The runs of each dtype, one for each seed."""
    recipe = multi30k.configuration(arguments.data, "raw", "cpu", arguments.steps)
    return {
        dtype: [
            caption_task(
                dtype, seed, replace(recipe, model=replace(recipe.model, dtype=dtype)),
                arguments.output, arguments.data,
            )
            for seed in range(arguments.seeds)
        ]
        for dtype in DTYPES
    }  # fmt: skip


def compare_dtypes(arguments: argparse.Namespace) -> Entry:
    """Train what has not been trained, and compare the scores."""
    works = make_works(arguments)
    results = find_all(works, 1, arguments.output)
    seconds = find_speeds(arguments, works, "multi30k")
    rows: list[list[Cell]] = [
        [dtype, str(run["seed"]), *(run[score] for score in SCORES), 1 / seconds[dtype]]
        for dtype, runs in results.items()
        for run in runs
    ]
    differences: list[Cell] = [
        mean_of(results["bfloat16"], score) - mean_of(results["float32"], score) for score in SCORES
    ]
    ratio = seconds["float32"] / seconds["bfloat16"]
    rows.append(["bfloat16 - float32, speeds as a ratio", "mean", *differences, ratio])
    every = [run for runs in results.values() for run in runs]
    return Entry(
        "precision",
        f"bfloat16 beside float32: Multi30k en-de, raw text, {arguments.steps:,} updates",
        merge_provenance(
            f"python -m experiments.precision --data MULTI30K --steps {arguments.steps} "
            f"--seeds {arguments.seeds}",
            [Provenance(**each["where"]) for each in every],
        ),
        [Table("Scores", ["dtype", "seed", *SCORES, "updates a second"], rows, 2)],
        "more seeds: those of one dtype differ, too. Perplexity and the first BLEU are of the "
        "validation text",
        {"runs": every},
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/precision")
    parser.add_argument("--data", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"updates (default: {STEPS:,})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default: {SEEDS}")
    arguments = parser.parse_args(argv)
    check_positive(arguments, "steps", "seeds")
    return arguments


def main() -> None:
    arguments = parse()
    publish_result("precision", compare_dtypes(arguments), arguments)


if __name__ == "__main__":
    run_program(main)
