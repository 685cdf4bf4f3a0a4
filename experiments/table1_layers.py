"""Table 1 measured: four layer types by time, memory and translation.

    python -m experiments.table1_layers                        scaled down, all parts
    python -m experiments.table1_layers --only memory          one part
    python -m experiments.table1_layers --only multi30k --data ../shared/data/multi30k
    python -m experiments.table1_layers --full --data-dir WMT  translation, base's size, on WMT14

time         one layer, forward and backward, from 16 to 4,096 positions, 4,096 tokens in all
memory       recalling a token from 8 to 512 places back (experiments.recall)
translation  whole models on the embedded corpus, with equal updates and with equal time
multi30k     whole models on captions, 20 minutes each; where --data names their folder

All compare as many parameters with each other, within a few per cent. How operations, sequential
steps and paths grow is counted by `experiments.audit`. A run that is finished is not run again: the
same command resumes where it was stopped.
"""

import argparse
import functools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import multi30k
from experiments.claims import mean_of, paired_interval, paired_rows
from experiments.complexity import count, training_operations
from experiments.layer_time import OURS, Speeds, time_table
from experiments.ledger import Cell, Entry, Provenance, Table, merge_provenance
from experiments.multi30k import CaptionTask, caption_task
from experiments.program import check_positive, make_parser, publish_result
from experiments.recall import DISTANCES, MODELS, Recall, derivative_norms
from experiments.sequences import RATE
from experiments.tasks import (
    SplitTask,
    Task,
    distinct,
    find_all,
    folder_name,
    on_one_device,
)
from transformer_jax import presets
from transformer_jax.config import ModelConfig, RunConfig
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

SEEDS, SENTENCES = 3, 150
STEPS = {"memory": 1000, "translation": 1500}
# Of each run on Multi30k.
MINUTES = 20
# Tokens of a side, EOS included: 22.6 and 26.2 on average in the embedded corpus, 15.0 and 15.4 in
# Multi30k. WMT's own have not been counted.
LENGTHS = {"small": 24, "full": 32, "multi30k": 16}
SPLITS = ("test", "length", "distance")


def timing(arguments: argparse.Namespace) -> Entry:
    start = time.perf_counter()
    where = Provenance.here(
        f"python -m experiments.table1_layers --only time --rounds {arguments.rounds}"
    )
    tables = time_table(arguments.rounds)
    return Entry(
        "table1_layers",
        "Table 1, measured: time of one layer, equal parameters",
        where.with_duration(time.perf_counter() - start),
        tables,
        "an accelerator, on which a sequence of many small products costs more. The paper has no "
        "times of layers",
    )


def recalls(arguments: argparse.Namespace) -> dict[str, list[Recall]]:
    """All models; also an LSTM that begins by keeping, and Elman's network in other ways."""
    rows: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in MODELS]
    rows += [
        ("lstm, forget bias 1", "lstm", {"forget_bias": 1.0}),
        ("rnn, not clipped", "rnn", {"clip_norm": None}),
        ("rnn, recurrent kernel x 2", "rnn", {"recurrent_scale": 2.0}),
        (
            "rnn, recurrent kernel x 2, not clipped",
            "rnn",
            {"recurrent_scale": 2.0, "clip_norm": None},
        ),
        ("rnn, a tenth of the rate", "rnn", {"rate": RATE / 10}),
    ]
    steps, folder = arguments.steps or STEPS["memory"], arguments.output / "memory"
    return {
        title: [
            Recall(
                name, seed, folder / folder_name(title, seed), steps, distances=DISTANCES, **options
            )
            for seed in range(arguments.seeds)
        ]
        for title, name, options in rows
    }


def memory(arguments: argparse.Namespace) -> Entry:
    named = find_all(recalls(arguments), arguments.jobs, arguments.output)
    rows: list[list[Cell]] = []
    for name, found in named.items():
        shares = [_mean([each["accuracy"][str(d)] for each in found]) for d in DISTANCES]
        largest = max(each["largest_gradient_norm"] for each in found)
        rows.append([name, found[0]["parameters"], *shares, f"{largest:.1e}"])
    columns = ["layers", "parameters", *(f"{d} back" for d in DISTANCES), "largest gradient norm"]
    found_all = [each for found in named.values() for each in found]
    return Entry(
        "table1_layers",
        "Table 1, measured: long memory",
        merge_provenance(
            f"python -m experiments.table1_layers --only memory{arguments.said}",
            [Provenance(**each["where"]) for each in found_all],
        ),
        [
            Table(
                f"Recalled, % (mean of {arguments.seeds} seeds, 95% interval; chance is 12.5)",
                columns,
                rows,
            ),
            _derivatives_table(),
        ],
        "nothing: the paper has no such task. One rate, 0.002, for all but one row; another may "
        "suit one of them better. An LSTM begins with a forget gate of 1/2, as in Flax and torch, "
        "unless its bias is said",
        {"runs": found_all},
    )


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.0f}"
    interval = paired_interval(values, 0.95)
    return f"{interval.mean:.0f} ± {interval.high - interval.mean:.0f}"


def _derivatives_table() -> Table:
    """How the derivative of the last feature vanishes or explodes with the distance."""
    distances = (1, 8, 64, 512)
    rows: list[list[Cell]] = []
    for name, config in MODELS.items():
        for scale in (0.9, 1.0, 2.0) if config.architecture == "rnn" else (1.0,):
            norms = derivative_norms(config, distances, scale)
            label = name if config.architecture != "rnn" else f"{name}, recurrent kernel x {scale}"
            rows.append([label, *(f"{norms[d]:.1e}" for d in distances)])
    columns = ["layers, before training", *(f"{d} back" for d in distances)]
    return Table("Norm of the derivative of a last feature by an input", columns, rows)


@functools.cache
def of_equal_size(config: ModelConfig, parameters: int) -> ModelConfig:
    """The model with the even width that has the nearest number of parameters.

    That number is a quadratic function of the width, which three widths determine.
    """
    known = (4, 64, 128)
    sizes = np.polynomial.Polynomial.fit(
        known, [count(replace(config, d_model=width)) for width in known], 2
    )
    roots: list[float] = (sizes - parameters).roots().real.tolist()
    below = int(max(roots) // 2 * 2)
    width = min((below, below + 2), key=lambda width: abs(sizes(width) - parameters))
    return replace(config, d_model=width)


def models(base: ModelConfig) -> dict[str, ModelConfig]:
    """Layer type -> a model with as many parameters as `base` has."""
    size = count(base)
    alone: dict[str, Any] = {"num_heads": 1, "vocab_size": base.vocab_size, "dropout": base.dropout}
    recurrent: dict[str, Any] = {"attention_score": "additive", "num_layers": base.num_layers}
    return {
        OURS: base,
        "restricted, radius 4": replace(base, attention_radius=4),
        "rnn": of_equal_size(ModelConfig(architecture="rnn", **recurrent, **alone), size),
        "lstm": of_equal_size(ModelConfig(architecture="lstm", **recurrent, **alone), size),
        "convolutional": of_equal_size(
            ModelConfig(architecture="convolutional", num_layers=2 * base.num_layers, **alone), size
        ),
    }


def with_layers(recipe: RunConfig, name: str) -> RunConfig:
    """A recipe for another layer type: as many parameters, and the same learning rates."""
    model = models(recipe.model)[name]
    # The schedule divides by sqrt(d_model).
    factor = recipe.optimizer.lr_factor * (model.d_model / recipe.model.d_model) ** 0.5
    return replace(recipe, model=model, optimizer=replace(recipe.optimizer, lr_factor=factor))


def layer_tasks(arguments: argparse.Namespace, name: str, steps: int) -> list[SplitTask]:
    """The runs of a layer type, one for each seed."""
    recipe = presets.run_config("base" if arguments.full else "tiny")
    if not arguments.full:
        recipe = replace(recipe, model=replace(recipe.model, dropout=0.0))
    dataset, scale = ("wmt14_translate", "full") if arguments.full else ("grammar", "small")
    recipe = with_layers(recipe, name)
    folder = arguments.output / f"translation-{scale}"
    scored, splits = (None, ()) if arguments.full else (SENTENCES, SPLITS)
    return [
        SplitTask(
            name,
            seed,
            on_one_device(recipe, dataset, steps, seed, data_dir=arguments.data_dir),
            folder / f"{folder_name(name, seed)}-{steps}",
            scored,
            dataset,
            splits,
        )
        for seed in range(arguments.seeds)
    ]


def find_speeds(
    arguments: argparse.Namespace, works: Mapping[str, Sequence[Task]], part: str
) -> dict[str, float]:
    """Seconds of an update of each layer type, on the whole machine."""
    configs = [tasks[0].config for tasks in works.values()]
    models = {name: config.model for name, config in zip(works, configs)}
    rows = configs[0].data.batch_tokens // LENGTHS[part]
    folder = arguments.output / f"speeds-{part}"
    speeds = Speeds("speeds", 0, folder, models, rows, LENGTHS[part])
    [found] = find_all({"speeds": [speeds]}, 1, arguments.output)["speeds"]
    return found["seconds"]


def translation(arguments: argparse.Namespace) -> Entry:
    """Equal updates first; then each as long as self-attention took."""
    steps = arguments.steps or (100_000 if arguments.full else STEPS["translation"])
    scale = "full" if arguments.full else "small"
    works = {name: layer_tasks(arguments, name, steps) for name in TRANSLATED}
    seconds = find_speeds(arguments, works, scale)
    updates = {name: round(steps * seconds[OURS] / seconds[name]) or 1 for name in TRANSLATED}
    timed_works = {name: layer_tasks(arguments, name, updates[name]) for name in TRANSLATED}
    scores = [f"BLEU {split}" for split in SPLITS] if not arguments.full else ["BLEU"]
    tables, every = [], []
    for title, each in (("Equal updates", works), ("Equal time", timed_works)):
        found = find_all(each, arguments.jobs, arguments.output)
        every += [run for runs in found.values() for run in runs]
        tables.append(_translation_table(title, works, found, seconds, scores, LENGTHS[scale]))
        if differences := paired_rows(found, OURS, scores):
            columns = [f"layers - {OURS}", "of", "mean", "from", "to", "pairs"]
            tables.append(Table(f"{title}: differences, 95% intervals", columns, differences, 1))
    missing = "equal updates share their batches"
    return _translated(arguments, "translation", tables, every, missing, LENGTHS[scale])


def multi30k_tasks(arguments: argparse.Namespace, name: str, steps: int) -> list[CaptionTask]:
    """The run of a layer type on Multi30k's raw text."""
    recipe = with_layers(multi30k.configuration(arguments.data, "raw", "cpu", steps), name)
    return [caption_task(name, 0, recipe, arguments.output / "multi30k", arguments.data)]


def captions(arguments: argparse.Namespace) -> Entry:
    """Multi30k: each for `MINUTES` of updates."""
    first = {name: multi30k_tasks(arguments, name, 1) for name in TRANSLATED}
    seconds = find_speeds(arguments, first, "multi30k")
    updates = {name: arguments.steps or round(60 * MINUTES / seconds[name]) for name in TRANSLATED}
    works = {name: multi30k_tasks(arguments, name, updates[name]) for name in TRANSLATED}
    found = find_all(works, arguments.jobs, arguments.output)
    scores, title = ["BLEU", "BLEU test2016"], f"{MINUTES} minutes each"
    return _translated(
        arguments,
        "multi30k",
        [_translation_table(title, works, found, seconds, scores, LENGTHS["multi30k"])],
        [run for runs in found.values() for run in runs],
        "one seed; the last checkpoint, not an average",
        LENGTHS["multi30k"],
    )


TRANSLATED = (OURS, "restricted, radius 4", "rnn", "lstm", "convolutional")


def _translation_table(
    title: str,
    works: Mapping[str, Sequence[Task]],
    found: Mapping[str, Sequence[dict]],
    seconds: Mapping[str, float],
    scores: Sequence[str],
    length: int,
) -> Table:
    """Means of the runs of each layer type; operations are those of sentences of a length."""
    rows: list[list[Cell]] = []
    for name, runs in found.items():
        model = works[name][0].config.model
        operations = training_operations(model, 4, length) / (4 * length) / 1e6
        means = [mean_of(runs, score) for score in scores]
        size, taken = runs[0]["parameters"], runs[0]["steps"]
        rows.append([name, model.d_model, size, operations, taken, 1 / seconds[name], *means])
    columns = ["layers", "d_model", "parameters", "MFLOP a token", "updates", "updates a second"]
    return Table(title, [*columns, *scores], rows, 1)


def _translated(
    arguments: argparse.Namespace,
    part: str,
    tables: list[Table],
    every: list[dict],
    missing: str,
    length: int,
) -> Entry:
    runs = distinct(every)
    return Entry(
        "table1_layers",
        f"Table 1, measured: {part}",
        merge_provenance(
            f"python -m experiments.table1_layers --only {part}{arguments.said}",
            [Provenance(**each["where"]) for each in runs],
        ),
        tables,
        "the paper compares with published models, not with layers in one frame. One schedule, "
        f"that of the Transformer, for all: others may suit the others better; {missing}. "
        f"Operations and speeds are of sentences of {length} tokens, side by side on the whole "
        "machine, compiling, saving and evaluation aside",
        {"runs": runs},
    )


PARTS = {"time": timing, "memory": memory, "translation": translation, "multi30k": captions}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/table1")
    parser.add_argument("--only", choices=PARTS, help="default: all parts")
    parser.add_argument("--seeds", type=int, help="3, --full: 1")
    parser.add_argument("--steps", type=int, help="updates; default: 1,000, 1,500, --full: 100,000")
    parser.add_argument("--rounds", type=int, default=5, help="of the times")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: one a core, --full: 1")
    parser.add_argument("--full", action="store_true", help="translation, base's size, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    parser.add_argument("--data", type=Path, help="folder of Multi30k")
    arguments = parser.parse_args(argv)
    if arguments.only == "multi30k" and not arguments.data:
        raise UserError("--only multi30k needs --data, the folder of Multi30k")
    if arguments.full and arguments.only not in (None, "translation"):
        raise UserError(f"--only {arguments.only} has no larger size: leave --full out")
    if arguments.full:
        arguments.only = "translation"
    if arguments.data_dir and not arguments.full:
        raise UserError(f"--data-dir {arguments.data_dir} is of --full: others write their text")
    check_positive(arguments, "seeds", "steps", "jobs", "rounds")
    given = (("--full", arguments.full), *(
        (f"--{name}", getattr(arguments, name)) for name in ("seeds", "steps", "data")
    ))  # fmt: skip
    arguments.said = "".join(
        f" {name}" if value is True else f" {name} {value}" for name, value in given if value
    )
    if arguments.seeds is None:
        arguments.seeds = 1 if arguments.full else SEEDS
    if arguments.jobs is None:
        arguments.jobs = 1 if arguments.full else os.cpu_count()
    return arguments


def main() -> None:
    arguments = parse()
    every = [name for name in PARTS if name != "multi30k" or arguments.data]
    for name in [arguments.only] if arguments.only else every:
        publish_result(f"table1-{name}", PARTS[name](arguments), arguments)


if __name__ == "__main__":
    run_program(main)
