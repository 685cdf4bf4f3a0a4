"""Table 1 measured: four layer types by time, memory and translation.

    python -m experiments.table1_layers                        scaled down, all parts
    python -m experiments.table1_layers --only memory          one part: time, memory or translation
    python -m experiments.table1_layers --full --data-dir WMT  translation at base's size, on WMT14

time         one layer, forward and backward, from 16 to 4,096 positions, 4,096 tokens in all
memory       recalling a token from 8 to 512 places back (experiments.recall)
translation  whole models on the embedded corpus, with equal updates and with equal time

All compare as many parameters with each other, within a few per cent. How operations, sequential
steps and paths grow is counted by `experiments.audit`. A run that is finished is not run again: the
same command resumes where it was stopped.
"""

import argparse
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.claims import paired_interval
from experiments.complexity import count
from experiments.layer_time import OURS, time_table
from experiments.ledger import Cell, Entry, Provenance, Table, merge_provenance
from experiments.program import check_positive, make_parser, publish_result
from experiments.recall import DISTANCES, MODELS, Recall, derivative_norms
from experiments.tasks import SplitTask, find_all, folder_name, on_one_device
from transformer_jax import presets
from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

SEEDS, SENTENCES = 3, 150
STEPS = {"memory": 1000, "translation": 1500}
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
    """All models; also an LSTM that begins by keeping, and Elman's network without clipping."""
    rows: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in MODELS]
    rows += [
        ("lstm, forget bias 1", "lstm", {"forget_bias": 1.0}),
        ("rnn, not clipped", "rnn", {"clip_norm": None}),
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
        "nothing: the paper has no such task. One rate, 0.002, for all; another may suit one of "
        "them better. An LSTM begins with a forget gate of 1/2, as in Flax and torch, unless its "
        "bias is said",
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
    """The model with the even width that has the nearest number of parameters."""
    low, high = 4, 2048
    while high - low > 2:
        middle = (low + high) // 4 * 2
        low, high = (
            (middle, high)
            if count(replace(config, d_model=middle)) <= parameters
            else (low, middle)
        )
    return min(
        (replace(config, d_model=width) for width in (low, high)),
        key=lambda each: abs(count(each) - parameters),
    )


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


def layer_tasks(arguments: argparse.Namespace, name: str, steps: int) -> list[SplitTask]:
    """The runs of a layer type, one for each seed."""
    recipe = presets.run_config("base" if arguments.full else "tiny")
    base = recipe.model if arguments.full else replace(recipe.model, dropout=0.0)
    dataset, scale = ("wmt14_translate", "full") if arguments.full else ("grammar", "small")
    model = models(base)[name]
    # The schedule divides by sqrt(d_model): so that all have the rates of `base`.
    factor = recipe.optimizer.lr_factor * (model.d_model / base.d_model) ** 0.5
    recipe = replace(recipe, model=model, optimizer=replace(recipe.optimizer, lr_factor=factor))
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


def translation(arguments: argparse.Namespace) -> Entry:
    """Equal updates first; then each as long as self-attention took."""
    steps = arguments.steps or (100_000 if arguments.full else STEPS["translation"])

    works = {name: layer_tasks(arguments, name, steps) for name in TRANSLATED}
    equal = find_all(works, arguments.jobs, arguments.output)
    # Compiling left out, which the cache takes off all runs of a row but the first.
    seconds = {name: _mean_of(runs, "seconds_per_update") for name, runs in equal.items()}
    updates = {name: round(steps * seconds[OURS] / seconds[name]) or 1 for name in TRANSLATED}
    timed = find_all(
        {name: layer_tasks(arguments, name, updates[name]) for name in TRANSLATED},
        arguments.jobs,
        arguments.output,
    )
    scores = [f"BLEU {split}" for split in SPLITS] if not arguments.full else ["BLEU"]
    rows: list[list[Cell]] = []
    differences: list[list[Cell]] = []
    for label, found in (("equal updates", equal), ("equal time", timed)):
        for name, runs in found.items():
            width = works[name][0].config.model.d_model
            means = [_mean_of(runs, score) for score in scores]
            size, taken = runs[0]["parameters"], runs[0]["steps"]
            rows.append([label, name, width, size, taken, 1 / seconds[name], *means])
            if name != OURS and arguments.seeds > 1:
                for score in scores:
                    pairs = zip(found[OURS], runs, strict=True)
                    interval = paired_interval([a[score] - b[score] for a, b in pairs], 0.95)
                    differences.append([label, name, score, *interval, _verdict(*interval[:3])])
    every = [run for found in (equal, timed) for runs in found.values() for run in runs]
    columns = ["", "layers", "d_model", "parameters", "updates", "updates a second", *scores]
    tables = [Table("Translation", columns, rows, 1)]
    if differences:
        paired_columns = ["", "self-attention against", "of", "ahead by", "from", "to", "pairs", ""]
        tables.append(Table("Differences, 95% intervals", paired_columns, differences, 1))
    return Entry(
        "table1_layers",
        "Table 1, measured: translation",
        merge_provenance(
            f"python -m experiments.table1_layers --only translation{arguments.said}",
            [Provenance(**each["where"]) for each in every],
        ),
        tables,
        "the paper compares with published models, not with layers in one frame. One schedule, "
        "that of the Transformer, for all: others may suit the others better. Runs of "
        "the same number of updates share their batches; compiling is no part of the time",
        {"runs": every},
    )


TRANSLATED = (OURS, "restricted, radius 4", "rnn", "lstm", "convolutional")


def _mean_of(found: Sequence[dict], score: str) -> float:
    return sum(each[score] for each in found) / len(found)


def _verdict(mean: float, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "undecided"
    return "better" if mean > 0 else "worse"


PARTS = {"time": timing, "memory": memory, "translation": translation}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/table1")
    parser.add_argument("--only", choices=PARTS, help="default: all parts")
    parser.add_argument("--seeds", type=int, help="3, --full: 1")
    parser.add_argument("--steps", type=int, help="updates; default: 1,000, 1,500, --full: 100,000")
    parser.add_argument("--rounds", type=int, default=5, help="of the times")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: one a core, --full: 1")
    parser.add_argument("--full", action="store_true", help="base's size, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    arguments = parser.parse_args(argv)
    if arguments.data_dir and not arguments.full:
        raise UserError(f"--data-dir {arguments.data_dir} is of --full: others write their text")
    check_positive(arguments, "seeds", "steps", "jobs", "rounds")
    given = (("--full", arguments.full), *(
        (f"--{name}", getattr(arguments, name)) for name in ("seeds", "steps")
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
    for name in [arguments.only] if arguments.only else PARTS:
        publish_result(f"table1-{name}", PARTS[name](arguments), arguments)


if __name__ == "__main__":
    run_program(main)
