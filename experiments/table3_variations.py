"""Table 3: what each choice of the architecture is worth, all 20 rows.

    python -m experiments.table3_variations                       the twin: 56 small runs
    python -m experiments.table3_variations --rows base B-dk-16   some rows
    python -m experiments.table3_variations --full --data-dir WMT --jobs 1

Whole (--full): presets `table3-ROW` on WMT14 en-de, scored on newstest2013 without averaging, one
seed, as in the paper; big takes 300,000 updates, the others 100,000.

Twin: every width of the paper's base model divided by 8 and its depth by 2, on 3,000 sentences of
the embedded grammar of at most 9 words. They are few, so that they repeat as often as WMT's did in
the paper and dropout has something to do, and short, so that base has learned most of the language
when 1,000 updates are over: both were chosen by trial runs of base and of the row without dropout.
The rows that the paper's observations rest on have five seeds; two rows of one seed see the same
batches, so their differences are paired. Perplexity and BLEU are those of 500 sentences of the
grammar's validation split, as short.

A run that is finished is not run again: the same command goes on where it was stopped.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from experiments.claims import Claim, judge
from experiments.ledger import Entry, Table, Where, record
from transformer_jax import presets
from transformer_jax.cli import at_a_terminal
from transformer_jax.config import RunConfig
from transformer_jax.data.grammar.corpus import stream
from transformer_jax.errors import UserError, nearest
from transformer_jax.search import Search
from transformer_jax.training.stopping import Stopped


class Printed(NamedTuple):
    """A row as the paper prints it; parameters in millions."""

    perplexity: float
    BLEU: float
    millions: int | None


PAPER = {
    "base": Printed(4.92, 25.8, 65),
    "A-heads-1": Printed(5.29, 24.9, None),
    "A-heads-4": Printed(5.00, 25.5, None),
    "A-heads-16": Printed(4.91, 25.8, None),
    "A-heads-32": Printed(5.01, 25.4, None),
    "B-dk-16": Printed(5.16, 25.1, 58),
    "B-dk-32": Printed(5.01, 25.4, 60),
    "C-layers-2": Printed(6.11, 23.7, 36),
    "C-layers-4": Printed(5.19, 25.3, 50),
    "C-layers-8": Printed(4.88, 25.5, 80),
    "C-dmodel-256": Printed(5.75, 24.5, 28),
    "C-dmodel-1024": Printed(4.66, 26.0, 168),
    "C-dff-1024": Printed(5.12, 25.4, 53),
    "C-dff-4096": Printed(4.75, 26.2, 90),
    "D-dropout-0.0": Printed(5.77, 24.6, None),
    "D-dropout-0.2": Printed(4.95, 25.5, None),
    "D-smoothing-0.0": Printed(4.67, 25.3, None),
    "D-smoothing-0.2": Printed(5.47, 25.7, None),
    "E-learned": Printed(4.92, 25.7, None),
    "big": Printed(4.33, 26.4, 213),
}
BEAM = Search(beam_size=4, alpha=0.6)
# The twin: pairs to train on, pairs to score, English words of the longest, updates; and by how
# much the model is smaller.
PAIRS, SCORED, LONGEST, STEPS = 3000, 500, 9, 1000
WIDTH, DEPTH = 8, 2
SEEDS = 5
# Learned positions are as good if perplexities differ by less than half of what one head costs
# in the paper, as a logarithm: 3.6%.
MARGIN = math.log(PAPER["A-heads-1"].perplexity / PAPER["base"].perplexity) / 2


CLAIMS = (
    Claim("A: a single head is worse", "A-heads-1", "perplexity", +1),
    Claim("A: a single head is worse", "A-heads-1", "BLEU", -1),
    Claim("A: too many heads are worse, too", "A-heads-32", "perplexity", +1),
    Claim("A: too many heads are worse, too", "A-heads-32", "BLEU", -1),
    Claim("B: smaller keys hurt", "B-dk-16", "perplexity", +1),
    Claim("B: smaller keys hurt", "B-dk-16", "BLEU", -1),
    Claim("C: bigger is better: fewer layers are worse", "C-layers-2", "perplexity", +1),
    Claim("C: bigger is better: a narrower model is worse", "C-dmodel-256", "perplexity", +1),
    Claim("D: dropout helps: none is worse", "D-dropout-0.0", "perplexity", +1),
    Claim("D: dropout helps: none is worse", "D-dropout-0.0", "BLEU", -1),
    Claim("D: smoothing hurts perplexity: none is better", "D-smoothing-0.0", "perplexity", -1),
    Claim("D: smoothing helps BLEU: none is worse", "D-smoothing-0.0", "BLEU", -1),
    Claim("E: learned positions make no difference", "E-learned", "perplexity", 0),
)


@dataclass(frozen=True)
class Task:
    """One run: a row and a seed, in a folder of its own."""

    row: str
    seed: int
    config: RunConfig
    folder: Path
    scored: int | None

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def done(self) -> dict | None:
        """What the run found, if it has trained as long as is wanted now."""
        if not self.result.exists():
            return None
        found = json.loads(self.result.read_text(encoding="utf-8"))
        return found if found["steps"] == self.config.train.steps else None


def twin(row: str, text: Path, seed: int, steps: int = STEPS) -> RunConfig:
    """A row of Table 3, small: sizes that it names divided as those of base are."""
    model, optimizer = presets.TABLE_3[row]
    base = replace(presets.base(1000), **model)
    return RunConfig(
        replace(
            base,
            d_model=base.d_model // WIDTH,
            d_ff=base.d_ff // WIDTH,
            d_k=base.key_size // WIDTH,
            d_v=base.value_size // WIDTH,
            num_layers=base.num_layers // DEPTH,
        ),
        replace(presets.recipe("tiny").optimizer, **optimizer),
        replace(
            presets.recipe("tiny").data,
            train=(str(text / "train.en"), str(text / "train.de")),
            validation=(str(text / "validation.en"), str(text / "validation.de")),
            cache_dir=str(text / "cache"),
        ),
        replace(
            presets.recipe("table3-base").train,
            steps=steps,
            seed=seed,
            evaluate_every=steps,
            checkpoint_every=max(steps // 3, 1),
            keep_last=1,
            parallel="jit",
        ),
    )


def full(row: str, data_dir: str | None, seed: int) -> RunConfig:
    """A row of Table 3 as the paper has it."""
    config = presets.recipe(f"table3-{row}")
    data = replace(config.data, dataset="wmt14_translate", direction="en-de", data_dir=data_dir)
    return replace(config, data=data, train=replace(config.train, seed=seed))


def write_text(folder: Path) -> Path:
    """The first short sentences of the grammar's train and validation splits, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"train": PAIRS, "validation": SCORED}
    paths = {split: [folder / f"{split}.{side}" for side in ("en", "de")] for split in wanted}
    if all(path.exists() for sides in paths.values() for path in sides):
        return folder
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in wanted}
    for split, example in stream():
        if split in wanted and example.length <= LONGEST and len(found[split]) < wanted[split]:
            found[split].append((example.english, example.german))
        if all(len(found[split]) == count for split, count in wanted.items()):
            break
    for split, pairs in found.items():
        for path, side in zip(paths[split], zip(*pairs)):
            path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
    return folder


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """What there is to run: the pairs that decide first, then the rows with one seed."""
    found = []
    decisive = {"base", *(claim.row for claim in CLAIMS)}
    text = None if arguments.full else write_text(arguments.output / "text")
    for row in sorted(arguments.rows, key=lambda row: row not in decisive):
        several = row in decisive and not arguments.full
        for seed in range(arguments.seeds if several else 1):
            if text is None:
                config = full(row, arguments.data_dir, seed)
            else:
                config = twin(row, text, seed, arguments.steps)
            folder = arguments.output / f"{row}-{seed}"
            found.append(Task(row, seed, config, folder, arguments.sentences))
    return found


def run(task: Task) -> dict:
    """Train and score one row, and write down what it found."""
    from transformer_jax.data.text import TextFiles
    from transformer_jax.evaluation.bleu import exact_match, score_all
    from transformer_jax.job import train
    from transformer_jax.testset import dataset_splits
    from transformer_jax.translator import Translator

    if (found := task.done()) is not None:
        return found
    start = time.perf_counter()
    try:
        train(task.config, task.folder, progress=False)
    except Stopped as stop:  # which is no Exception, and so would break the pool
        raise UserError(str(stop)) from None
    trained = time.perf_counter() - start
    files = task.config.data.validation
    text = TextFiles(*files) if files else dataset_splits(task.folder)["validation"]
    sources, references = zip(*list(text)[: task.scored])
    translator = Translator.load(task.folder, "last")
    translations = translator.translate(sources, BEAM)
    scores = [*score_all(translations, references, "de"), exact_match(translations, references)]
    found = {
        "row": task.row,
        "seed": task.seed,
        "steps": task.config.train.steps,
        "parameters": sum(leaf.size for leaf in _leaves(translator.params)),
        "perplexity": translator.perplexity(sources, references),
        **{score.name: score.value for score in scores},
        "signatures": {score.name: score.signature for score in scores},
        "training_seconds": round(trained, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    task.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _leaves(params):
    import jax

    return jax.tree.leaves(params)


def _worker(cache: str) -> None:
    # One thread a process, and programs compiled once for all seeds of a row.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)


def run_all(wanted: Sequence[Task], jobs: int, cache: Path) -> list[dict]:
    """The results of all tasks, `jobs` at a time, each in a process of its own."""
    if jobs > 1:
        os.environ.setdefault("NPROC", "1")
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        _worker,
        (str(cache.absolute()),),
        max_tasks_per_child=1,
    )
    found = []
    try:
        for number, result in enumerate(pool.map(run, wanted), 1):
            found.append(result)
            print(
                f"{number:3} of {len(wanted)}  {result['row']:16} seed {result['seed']}  "
                f"PPL {result['perplexity']:6.3f}  BLEU {result['BLEU']:5.1f}  "
                f"{result['seconds']:5.0f} s",
                flush=True,
            )
    finally:
        # Stopped, or one has failed: the others save what they have and end, too.
        for job in multiprocessing.active_children():
            job.terminate()
        pool.shutdown(cancel_futures=True)
    return found


def rows_table(found: Sequence[dict], score: str) -> Table:
    """All rows beside the paper's; the mean over seeds."""
    rows = []
    for row, (perplexity, bleu, millions) in PAPER.items():
        own = [result for result in found if result["row"] == row]
        if own:
            mean = [sum(r[name] for r in own) / len(own) for name in ("perplexity", score)]
            rows.append(
                [row, perplexity, bleu, millions, *mean, own[0]["parameters"] / 1e6, len(own)]
            )
    columns = ["row", "PPL, paper", "BLEU, paper", "params/1e6, paper"]
    return Table(
        "Rows", [*columns, "PPL, ours", f"{score}, ours", "params/1e6, ours", "seeds"], rows, 3
    )


def claims_table(found: Sequence[dict]) -> Table:
    """What the paper observes, its numbers, and ours as paired intervals."""
    rows = []
    for claim in CLAIMS:
        judged = judge(claim, found, MARGIN)
        if judged is None:
            continue
        interval, verdict = judged
        there, base = (getattr(PAPER[row], claim.measure) for row in (claim.row, "base"))
        name = "ln PPL" if claim.measure == "perplexity" else "BLEU"
        paper = math.log(there / base) if name == "ln PPL" else there - base
        rows.append([claim.observation, claim.row, name, paper, *interval, verdict])
    columns = ["observation", "row - base", "of", "paper", "ours", "from", "to", "pairs", "verdict"]
    return Table("Observations", columns, rows, 3)


def entry(found: Sequence[dict], where: Where, is_full: bool) -> Entry:
    tables = [rows_table(found, "compound-split BLEU" if is_full else "BLEU")]
    if (claims := claims_table(found)).rows:
        tables.append(claims)
    missing = (
        "the paper does not say how many seeds its rows have"
        if is_full
        else "the rows at full size on WMT14 (--full), which need an accelerator: about 700 GPU "
        "hours by the paper's own speed. The twin's numbers compare with each other only. "
        f"Intervals: 95%, for learned positions 90% against a margin of {MARGIN:.3f} ln PPL"
    )
    scale = "full size" if is_full else "twin on the embedded corpus"
    title = f"Table 3, variations of the architecture ({scale})"
    return Entry("table3_variations", title, where, tables, missing, {"runs": list(found)})


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/table3"), help="folder to write")
    parser.add_argument("--rows", nargs="+", default=list(PAPER), help="default: all 20")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the rows that decide a claim")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the twin")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    arguments = parser.parse_args(words)
    for row in arguments.rows:
        if row not in PAPER:
            raise UserError(f"row {row!r} is none of Table 3; {nearest(row, PAPER)}")
    for name in ("seeds", "steps", "jobs"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)} must be positive")
    arguments.sentences = None if arguments.full else SCORED
    return arguments


def main() -> None:
    arguments = parse()
    start = time.perf_counter()
    found = run_all(tasks(arguments), arguments.jobs, arguments.output / "compiled")
    command = "python -m experiments.table3_variations" + (" --full" if arguments.full else "")
    result = entry(found, Where.here(command, time.perf_counter() - start), arguments.full)
    for table in result.tables:
        print(f"\n{table.markdown()}")
    print(record("table3-full" if arguments.full else "table3-twin", result, arguments.output))


if __name__ == "__main__":
    with at_a_terminal():
        main()
