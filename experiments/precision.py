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
from experiments.layer_time import Speeds
from experiments.ledger import Cell, Entry, Provenance, Table, merge_provenance
from experiments.multi30k import CaptionTask, caption_task
from experiments.program import check_positive, make_parser, publish_result
from experiments.tasks import find_all
from transformer_jax.config.model import Dtype
from transformer_jax.terminal import run_program

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
SCORES = ("perplexity", "BLEU", "BLEU test2016")
STEPS, SEEDS = 4000, 2
LENGTH = 16  # tokens of a side in Multi30k, EOS included, for the speeds


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
    config = works["float32"][0].config
    models = {dtype: runs[0].config.model for dtype, runs in works.items()}
    speeds = Speeds(
        "speeds", 0, arguments.output / "speeds", models, config.data.batch_tokens // LENGTH, LENGTH
    )
    found = find_all({**works, "speeds": [speeds]}, 1, arguments.output)
    [speed] = found.pop("speeds")
    rows: list[list[Cell]] = [
        [dtype, str(run["seed"]), *(run[score] for score in SCORES), 1 / speed["seconds"][dtype]]
        for dtype, runs in found.items()
        for run in runs
    ]
    differences: list[Cell] = [
        mean_of(found["bfloat16"], score) - mean_of(found["float32"], score) for score in SCORES
    ]
    ratio = speed["seconds"]["float32"] / speed["seconds"]["bfloat16"]
    rows.append(["bfloat16 - float32, speeds as a ratio", "mean", *differences, ratio])
    every = [run for runs in found.values() for run in runs]
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
