"""What readers of the paper ask, each answered by a measurement.

    python -m experiments.questions                       all of them, on the embedded corpus
    python -m experiments.questions --only scores layers  some

scores      why divide by sqrt(d_k): entropy and gradients by d_k; three scores trained
norms       layer norm against batch norm, with large and small batches
positions   sinusoids, learned, the bare index, none; on sentences longer than those of training
layers      why several: which of two tokens came first, asked without positions
choices     with and without warm-up, residuals, dropout, smoothing, scaled embeddings; pre-norm
probe       whether residuals carry the position upwards: a linear probe in every layer
channels    several heads against a convolution

Models are `tiny`'s, trained for 1,000 updates on the embedded corpus, with three seeds except for
pre-norm and scaled embeddings. A run that is finished is not run again: the same command resumes
where it was stopped.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from experiments import attention_facts
from experiments.claims import paired_interval
from experiments.ledger import Cell, Entry, Provenance, Table, merge_provenance
from experiments.order import MODELS, Order
from experiments.program import make_parser, publish_result
from experiments.tasks import SplitTask, Work, run_all
from transformer_jax import presets
from transformer_jax.config import OptimizerConfig
from transformer_jax.errors import UserError
from transformer_jax.run.train import train
from transformer_jax.terminal import run_program
from transformer_jax.training.optimizer import make_optimizer

# Sentences that are translated, and those whose states are probed.
SEEDS, SENTENCES, PROBED = 3, 150, 500
STEPS = {"translation": 1000, "layers": 1000}
SPLITS = ("test", "length")

# Row -> changes of the model, the optimizer and the data; "warm-up" of False is none.
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
    "no warm-up": {"warm-up": {"begins": False}},
    "no residuals": {"model": {"residual_connections": False}},
    "dropout 0.1": {"model": {"dropout": 0.1}},
    "no smoothing": {"optimizer": {"label_smoothing": 0.0}},
    "pre-norm": {"model": {"norm_placement": "pre"}},
    "pre-norm, no warm-up": {
        "model": {"norm_placement": "pre"}, "warm-up": {"begins": False},
    },
    "embeddings not scaled": {"model": {"scale_embeddings": False}},
}  # fmt: skip
# Rows of which one run is enough.
SINGLE = {"pre-norm", "pre-norm, no warm-up", "embeddings not scaled"}


def make_flat_optimizer(config: OptimizerConfig, schedule: Callable) -> Any:
    """The optimizer whose learning rate begins at its peak, where the warm-up would end."""
    return make_optimizer(config, lambda step: schedule(jnp.maximum(step, config.warmup_steps - 1)))


@dataclass(frozen=True)
class Choice(SplitTask):
    """A run of a row; its `row` says whether its learning rate warms up."""

    def train(self) -> None:
        if "warm-up" in ROWS[self.row]:
            train(self.config, self.folder, progress=False, optimizer=make_flat_optimizer)
        else:
            super().train()

    @property
    def identity(self) -> str:
        return f"{super().identity}{' without warm-up' if 'warm-up' in ROWS[self.row] else ''}"


def choices(arguments: argparse.Namespace, rows: Sequence[str]) -> dict[str, list[Choice]]:
    recipe, steps = presets.run_config("tiny"), arguments.steps or STEPS["translation"]
    made = {}
    for row in rows:
        change = ROWS[row]
        config = replace(
            recipe,
            model=replace(recipe.model, **{"dropout": 0.0, **change.get("model", {})}),
            optimizer=replace(recipe.optimizer, **change.get("optimizer", {})),
            data=replace(
                recipe.data, dataset="grammar", direction="en-de", **change.get("data", {})
            ),
        )
        folder = arguments.output / row.replace(",", "").replace(" ", "-")
        made[row] = [
            Choice(
                row,
                seed,
                replace(
                    config,
                    train=replace(
                        config.train, steps=steps, seed=seed, parallel="jit",
                        log_every=min(50, steps),
                    ),
                ),
                folder / str(seed),
                SENTENCES,
                "grammar",
                SPLITS,
            )
            for seed in range(1 if row in SINGLE else arguments.seeds)
        ]  # fmt: skip
    return made


def found_by(arguments: argparse.Namespace, works: dict[str, list]) -> dict[str, list[dict]]:
    """What works have found, of which those are run that were not."""
    every: list[Work] = [work for several in works.values() for work in several]
    run_all(every, arguments.jobs, arguments.output / "compiled")
    return {name: [_result(work) for work in several] for name, several in works.items()}


def _result(work: Work) -> dict:
    found = work.cached_result()
    assert found is not None, f"{work.folder} was run"
    return found


def compare_rows(arguments: argparse.Namespace, base: str, rows: Sequence[str]) -> "Answer":
    """Perplexity and BLEU of rows beside a base, paired by seed."""
    found = found_by(arguments, choices(arguments, [base, *rows]))
    scores = ("perplexity", *(f"BLEU {split}" for split in SPLITS))
    means: list[list[Cell]] = []
    pairs: list[list[Cell]] = []
    for row, results in found.items():
        values = [sum(each[s] for each in results) / len(results) for s in scores]
        means.append([row, len(results), *values])
        for score in scores if row != base and len(results) > 1 else ():
            differences = [a[score] - b[score] for a, b in zip(results, found[base])]
            pairs.append([row, score, *paired_interval(differences, 0.95)])
    tables = [Table("", ["row", "seeds", *scores], means)]
    if pairs:
        columns = [f"row - {base}", "of", "mean", "from", "to", "pairs"]
        tables.append(Table("Differences, 95% intervals", columns, pairs))
    runs = [each for results in found.values() for each in results]
    return Answer(tables, runs)


@dataclass
class Answer:
    """Tables of a question, and the runs that they are made of."""

    tables: list[Table]
    runs: list[dict]


def scores(arguments: argparse.Namespace) -> Answer:
    rows = ("one head, unscaled", "one head, additive")
    trained = compare_rows(arguments, "one head, scaled", rows)
    return Answer([attention_facts.scale_table(), *trained.tables], trained.runs)


def norms(arguments: argparse.Namespace) -> Answer:
    return compare_rows(
        arguments,
        "base",
        (
            "layer norm, batches of 256 tokens", "batch norm", "batch norm, batches of 256 tokens",
        ),
    )  # fmt: skip


def positions(arguments: argparse.Namespace) -> Answer:
    return compare_rows(arguments, "base", ("learned positions", "bare index", "no positions"))


def several_choices(arguments: argparse.Namespace) -> Answer:
    rows = ("no warm-up", "no residuals", "dropout 0.1", "no smoothing", *sorted(SINGLE))
    return compare_rows(arguments, "base", rows)


def layers(arguments: argparse.Namespace) -> Answer:
    steps, folder = arguments.steps or STEPS["layers"], arguments.output / "order"
    works = {
        name: [
            Order(name, seed, folder / f"{name.replace(',', '').replace(' ', '-')}-{seed}", steps)
            for seed in range(arguments.seeds)
        ]
        for name in MODELS
    }
    found = found_by(arguments, works)
    rows: list[list[Cell]] = [
        [name, several[0]["parameters"], ", ".join(f"{each['accuracy']:.0f}" for each in several)]
        for name, several in found.items()
    ]
    title = "Which of two tokens came first (chance is 50%)"
    table = Table(
        title, ["attention without positions", "parameters", "right, % of each seed"], rows
    )
    return Answer([table], [each for several in found.values() for each in several])


def probe(arguments: argparse.Namespace) -> Answer:
    works = choices(arguments, ["base", "no residuals", "no positions"])
    found = found_by(arguments, works)
    rows: list[list[Cell]] = []
    for row, several in works.items():
        shares = [attention_facts.position_probe(work.folder, PROBED) for work in several]
        rows.append([row, *(sum(each) / len(each) for each in zip(*shares))])
    columns = ["row", "embedding", *(f"encoder layer {i + 1}" for i in range(len(rows[0]) - 2))]
    title = "Variance of the position that a linear map of a state tells, %"
    return Answer([Table(title, columns, rows, 1)], [e for few in found.values() for e in few])


def channels(arguments: argparse.Namespace) -> Answer:
    return Answer([attention_facts.channels_table()], [])


QUESTIONS: dict[str, tuple[str, Callable[[argparse.Namespace], Answer]]] = {
    "scores": ("Why divide by sqrt(d_k)?", scores),
    "norms": ("Why layer norm and not batch norm?", norms),
    "positions": ("Which positions, and beyond the training length?", positions),
    "layers": ("Why several layers?", layers),
    "choices": ("What do warm-up, residuals, dropout, smoothing and scaling do?", several_choices),
    "probe": ("Do residuals carry the position upwards?", probe),
    "channels": ("Several heads, or a convolution over channels?", channels),
}


def answer(name: str, arguments: argparse.Namespace) -> Entry:
    title, ask = QUESTIONS[name]
    start, command = time.perf_counter(), f"python -m experiments.questions --only {name}"
    here = Provenance.here(command)
    found = ask(arguments)
    where = (
        merge_provenance(command, [Provenance(**each["where"]) for each in found.runs])
        if found.runs
        else here.with_duration(time.perf_counter() - start)
    )
    missing = (
        "the paper's size and text. Rows differ from base in what is named, and share its batches "
        "where the batches are as large; 150 sentences of each split; intervals are not corrected "
        "for their number"
    )
    return Entry("questions", title, where, found.tables, missing, {"runs": found.runs})


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/questions")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="updates; default: 1,000")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="default: one a core")
    arguments = parser.parse_args(argv)
    arguments.output = Path(arguments.output)
    for name in ("seeds", "steps", "jobs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be positive")
    return arguments


def main() -> None:
    arguments = parse()
    for name in arguments.only or QUESTIONS:
        publish_result(f"question-{name}", answer(name, arguments), arguments)


if __name__ == "__main__":
    run_program(main)
