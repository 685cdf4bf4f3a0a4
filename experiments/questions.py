"""What readers of the paper ask, each answered by a measurement.

    python -m experiments.questions                       all of them, on the embedded corpus
    python -m experiments.questions --only scores layers  some

scores      why divide by sqrt(d_k): weights by d_k; three scores trained
norms       layer norm against batch norm, with large and small batches
positions   sinusoids, learned, the bare index, none; on sentences longer than those of training
layers      why several: which of two tokens came first, asked without positions
choices     with and without warm-up, residuals, dropout, smoothing; with one seed also pre-norm and
            embeddings that are not scaled
probe       whether residuals carry the position upwards: a linear probe of every layer
heads       attention with several heads against a convolution

Models are `tiny`'s without dropout, trained for 1,000 updates on the embedded corpus with three
seeds. A run that is finished is not run again: the same command resumes where it was stopped.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from experiments import attention_facts
from experiments.claims import mean_of, paired_rows
from experiments.ledger import Cell, Entry, Provenance, Table, merge_provenance
from experiments.order import MODELS, Order
from experiments.program import check_positive, make_parser, publish_result
from experiments.tasks import SplitTask, distinct, find_all, folder_name, on_one_device
from transformer_jax import presets
from transformer_jax.config import OptimizerConfig
from transformer_jax.run.train import train
from transformer_jax.terminal import run_program
from transformer_jax.training.optimizer import make_optimizer

# Sentences that are translated, and those whose states are probed.
SEEDS, SENTENCES, PROBED = 3, 150, 500
STEPS = 1000
DATASET = "grammar"
SPLITS = ("test", "length")
SMALL_BATCHES = "batches of 256 tokens"

# Row -> changes of the model, the optimizer and the data.
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "base": {},
    "one head, scaled": {"model": {"num_heads": 1}},
    "one head, unscaled": {"model": {"num_heads": 1, "attention_score": "unscaled"}},
    "one head, additive": {"model": {"num_heads": 1, "attention_score": "additive"}},
    "layer norm, batches of 256 tokens": {"data": {"batch_tokens": 256}},
    "batch norm": {"model": {"normalization": "batch"}},
    "batch norm, batches of 256 tokens": {
        "model": {"normalization": "batch"}, "data": {"batch_tokens": 256},
    },
    "learned positions": {"model": {"position_encoding": "learned", "max_positions": 128}},
    "bare index": {"model": {"position_encoding": "index"}},
    "no positions": {"model": {"position_encoding": "none"}},
    "no warm-up": {},
    "no residuals": {"model": {"residual_connections": False}},
    "dropout 0.1": {"model": {"dropout": 0.1}},
    "no smoothing": {"optimizer": {"label_smoothing": 0.0}},
    "pre-norm": {"model": {"norm_placement": "pre"}},
    "pre-norm, no warm-up": {"model": {"norm_placement": "pre"}},
    "embeddings not scaled": {"model": {"scale_embeddings": False}},
}  # fmt: skip
# Rows whose learning rate begins at its peak.
FLAT = ("no warm-up", "pre-norm, no warm-up")
PROBED_ROWS = ("base", "no residuals", "no positions")


def make_flat_optimizer(config: OptimizerConfig, schedule: Callable) -> Any:
    """The optimizer whose learning rate begins at its peak, where the warm-up would end."""
    return make_optimizer(config, lambda step: schedule(jnp.maximum(step, config.warmup_steps - 1)))


@dataclass(frozen=True)
class Choice(SplitTask):
    """A run of a row; its `row` says whether its learning rate warms up."""

    def train(self) -> None:
        if self.row in FLAT:
            train(self.config, self.folder, progress=False, optimizer=make_flat_optimizer)
        else:
            super().train()

    @property
    def identity(self) -> str:
        return f"{super().identity}{' without warm-up' if self.row in FLAT else ''}"


def make_works(
    arguments: argparse.Namespace, rows: Sequence[str], seeds: int
) -> dict[str, list[Choice]]:
    """The runs of rows, by row."""
    recipe, steps = presets.run_config("tiny"), arguments.steps or STEPS
    made = {}
    for row in rows:
        change = ROWS[row]
        changed = replace(
            recipe,
            model=replace(recipe.model, **{"dropout": 0.0, **change.get("model", {})}),
            optimizer=replace(recipe.optimizer, **change.get("optimizer", {})),
        )
        made[row] = [
            Choice(
                row,
                seed,
                on_one_device(changed, DATASET, steps, seed, **change.get("data", {})),
                arguments.output / folder_name(row, seed),
                SENTENCES,
                DATASET,
                SPLITS,
            )
            for seed in range(seeds)
        ]
    return made


@dataclass
class Answer:
    """Tables of a question, what they lack, and the runs that they are made of."""

    tables: list[Table]
    missing: str
    runs: list[dict]


CAVEATS = (
    "the paper's size and text. Rows differ from the first in what is named, and share its batches "
    f"where these are as large; {SENTENCES} sentences of each split; perplexities are compared by "
    "their logarithms; intervals are not corrected for their number"
)


def compare_rows(
    arguments: argparse.Namespace, base: str, rows: Sequence[str], seeds: int | None = None
) -> Answer:
    """Perplexity and BLEU of rows beside a base, paired by seed."""
    seeds = seeds or arguments.seeds
    works = make_works(arguments, [base, *rows], seeds)
    found = find_all(works, arguments.jobs, arguments.output)
    scores = ("perplexity", *(f"BLEU {split}" for split in SPLITS))
    means: list[list[Cell]] = []
    for row, results in found.items():
        means.append([row, len(results), *(mean_of(results, score) for score in scores)])
    tables = [Table(f"{base} and others", ["row", "seeds", *scores], means)]
    if pairs := paired_rows(found, base, scores):
        columns = [f"row - {base}", "of", "mean", "from", "to", "pairs"]
        tables.append(Table("Differences, 95% intervals", columns, pairs))
    return Answer(tables, CAVEATS, [each for results in found.values() for each in results])


def _together(*answers: Answer) -> Answer:
    """Several answers as one."""
    tables = [table for each in answers for table in each.tables]
    runs = distinct([run for each in answers for run in each.runs])
    return Answer(tables, answers[0].missing, runs)


def ask_scores(arguments: argparse.Namespace) -> Answer:
    rows = ("one head, unscaled", "one head, additive")
    trained = compare_rows(arguments, "one head, scaled", rows)
    return replace(trained, tables=[attention_facts.scale_table(), *trained.tables])


def ask_norms(arguments: argparse.Namespace) -> Answer:
    """By size of the batch, since as many updates of smaller ones read less text."""
    return _together(
        compare_rows(arguments, "base", ("batch norm",)),
        compare_rows(arguments, f"layer norm, {SMALL_BATCHES}", (f"batch norm, {SMALL_BATCHES}",)),
    )


def ask_positions(arguments: argparse.Namespace) -> Answer:
    return compare_rows(arguments, "base", ("learned positions", "bare index", "no positions"))


def ask_choices(arguments: argparse.Namespace) -> Answer:
    rows = ("no warm-up", "no residuals", "dropout 0.1", "no smoothing")
    single = ("pre-norm", "pre-norm, no warm-up", "no warm-up", "embeddings not scaled")
    return _together(
        compare_rows(arguments, "base", rows), compare_rows(arguments, "base", single, seeds=1)
    )


def ask_layers(arguments: argparse.Namespace) -> Answer:
    steps, folder = arguments.steps or STEPS, arguments.output / "order"
    works = {
        name: [
            Order(name, seed, folder / folder_name(name, seed), steps)
            for seed in range(arguments.seeds)
        ]
        for name in MODELS
    }
    found = find_all(works, arguments.jobs, arguments.output)
    rows: list[list[Cell]] = [
        [name, several[0]["parameters"], ", ".join(f"{each['accuracy']:.0f}" for each in several)]
        for name, several in found.items()
    ]
    title = "Which of two tokens came first (chance is 50%)"
    return Answer(
        [Table(title, ["attention", "parameters", "right, % of each seed"], rows)],
        "nothing: the paper has no such task. It shows what a second layer can do that a first "
        "cannot, not how many a translation needs",
        [each for several in found.values() for each in several],
    )


def ask_probe(arguments: argparse.Namespace) -> Answer:
    works = make_works(arguments, PROBED_ROWS, arguments.seeds)
    found = find_all(works, arguments.jobs, arguments.output)
    rows: list[list[Cell]] = []
    for row, several in works.items():
        for is_trained in (True, False):
            shares = [
                attention_facts.position_probe(work.folder, PROBED, is_trained) for work in several
            ]
            cells = [", ".join(f"{share:.0f}" for share in each) for each in zip(*shares)]
            rows.append([row if is_trained else f"{row}, before training", *cells])
    columns = ["row", "embedding", *(f"encoder layer {i + 1}" for i in range(len(rows[0]) - 2))]
    title = "Variance of the position that a linear map of a state explains, % of each seed"
    runs = [each for several in found.values() for each in several]
    return Answer([Table(title, columns, rows)], CAVEATS, runs)


def ask_heads(arguments: argparse.Namespace) -> Answer:
    missing = (
        "weights of heads that are learned: those here are set by hand, and each head is as wide "
        "as the model. Kernels are drawn at random, one of each width"
    )
    return Answer([attention_facts.heads_table()], missing, [])


QUESTIONS: dict[str, tuple[str, Callable[[argparse.Namespace], Answer]]] = {
    "scores": ("Why divide by sqrt(d_k)?", ask_scores),
    "norms": ("Why layer norm and not batch norm?", ask_norms),
    "positions": ("Which positions, and beyond the training length?", ask_positions),
    "layers": ("Why several layers?", ask_layers),
    "choices": ("What do warm-up, residuals, dropout, smoothing and scaling do?", ask_choices),
    "probe": ("Do residuals carry the position upwards?", ask_probe),
    "heads": ("Several heads, or a convolution?", ask_heads),
}


def answer(name: str, arguments: argparse.Namespace) -> Entry:
    title, ask = QUESTIONS[name]
    start = time.perf_counter()
    command = f"python -m experiments.questions --only {name}{arguments.said}"
    here = Provenance.here(command)
    found = ask(arguments)
    runs = [Provenance(**each["where"]) for each in found.runs]
    if not runs:
        here = here.with_duration(time.perf_counter() - start)
    where = merge_provenance(command, [here, *runs])
    return Entry("questions", title, where, found.tables, found.missing, {"runs": found.runs})


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/questions")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="updates; default: 1,000")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="default: one a core")
    arguments = parser.parse_args(argv)
    check_positive(arguments, "seeds", "steps", "jobs")
    arguments.said = f" --seeds {arguments.seeds}"
    arguments.said += f" --steps {arguments.steps}" if arguments.steps else ""
    return arguments


def main() -> None:
    arguments = parse()
    for name in arguments.only or QUESTIONS:
        publish_result(f"question-{name}", answer(name, arguments), arguments)


if __name__ == "__main__":
    run_program(main)
