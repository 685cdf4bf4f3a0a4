"""Table 3: what each choice of the architecture is worth, all 20 rows.

    python -m experiments.table3_variations                       the twin: 60 small runs
    python -m experiments.table3_variations --rows base B-dk-16   some rows; the table has all done
    python -m experiments.table3_variations --full --data-dir WMT --jobs 1

Whole (--full): presets `table3-ROW` on WMT14 en-de, scored on newstest2013 without averaging; big
takes 300,000 updates, the others 100,000. One seed, unless --seeds says more.

Twin: every width of the paper's base model divided by 8 and its depth by 2, on 3,000 sentences of
the embedded grammar of at most 9 words. They are few, so that they repeat as often as WMT's did in
the paper and dropout has something to do, and short, so that 1,000 updates lead far enough: both
were chosen by trial runs of base and of the row without dropout. The rows that the paper's
observations rest on have five seeds; two rows of one seed see the same batches, so their
differences are paired. Perplexity and BLEU are those of 500 sentences of the grammar's validation
split, as short.

A run that is finished is not run again: the same command goes on where it was stopped.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from experiments.claims import Claim, judge
from experiments.ledger import Entry, Table, Where, publish, write_json
from experiments.runs import recorded, trained
from transformer_jax import presets
from transformer_jax.cli import at_a_terminal
from transformer_jax.config import RunConfig
from transformer_jax.data.grammar.corpus import stream
from transformer_jax.errors import UserError, nearest
from transformer_jax.search import Search


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
    Claim("C: bigger is better: a wider feed-forward is better", "C-dff-4096", "perplexity", -1),
    Claim("C: bigger is better: a wider feed-forward is better", "C-dff-4096", "BLEU", +1),
    Claim("D: dropout helps: none is worse", "D-dropout-0.0", "perplexity", +1),
    Claim("D: dropout helps: none is worse", "D-dropout-0.0", "BLEU", -1),
    Claim("D: smoothing hurts perplexity: none is better", "D-smoothing-0.0", "perplexity", -1),
    Claim("D: smoothing helps BLEU: none is worse", "D-smoothing-0.0", "BLEU", -1),
    Claim("E: learned positions make no difference", "E-learned", "perplexity", 0),
)


@dataclass(frozen=True)
class Task:
    """One run: a row and a seed, in a folder of its own, scored on so many sentences (None: all).

    text  what it is trained and scored on, as far as the configuration does not say it
    """

    row: str
    seed: int
    config: RunConfig
    folder: Path
    scored: int | None
    text: str

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def identity(self) -> str:
        """Equal for tasks that find the same."""
        parts = (self.config.identity(), self.config.train.steps, self.scored, self.text, BEAM)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def done(self) -> dict | None:
        """What the run found, if it was this task."""
        if not self.result.exists():
            return None
        found = json.loads(self.result.read_text(encoding="utf-8"))
        return found if found["identity"] == self.identity else None


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


def full(row: str, data_dir: str | None, seed: int, steps: int | None = None) -> RunConfig:
    """A row of Table 3 as the paper has it."""
    config = presets.recipe(f"table3-{row}")
    data = replace(config.data, dataset="wmt14_translate", direction="en-de", data_dir=data_dir)
    steps = config.train.steps if steps is None else steps
    return replace(config, data=data, train=replace(config.train, seed=seed, steps=steps))


def write_text(folder: Path) -> Path:
    """The first short sentences of the grammar's train and validation splits, as files."""
    folder = folder / f"text-{PAIRS}-{SCORED}-{LONGEST}"
    if folder.exists():
        return folder
    wanted = {"train": PAIRS, "validation": SCORED}
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in wanted}
    for split, example in stream():
        if split in wanted and example.length <= LONGEST and len(found[split]) < wanted[split]:
            found[split].append((example.english, example.german))
        if all(len(found[split]) == count for split, count in wanted.items()):
            break
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    for split, pairs in found.items():
        for language, side in zip(("en", "de"), zip(*pairs)):
            lines = "".join(f"{line}\n" for line in side)
            (part / f"{split}.{language}").write_text(lines, encoding="utf-8")
    part.rename(folder)
    return folder


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """What there is to run: the rows that decide a claim first, then those with one seed."""
    found = []
    decisive = {"base", *(claim.row for claim in CLAIMS)}
    text = None if arguments.full else write_text(arguments.output)
    for row in sorted(dict.fromkeys(arguments.rows), key=lambda row: row not in decisive):
        for seed in range(arguments.seeds if arguments.full or row in decisive else 1):
            if text is None:
                config = full(row, arguments.data_dir, seed, arguments.steps)
            else:
                config = twin(row, text, seed, arguments.steps)
            folder = arguments.output / arguments.scale / f"{row}-{seed}"
            name = "newstest2013" if text is None else text.name
            found.append(Task(row, seed, config, folder, None if text is None else SCORED, name))
    return found


def run(task: Task) -> dict:
    """Train and score one row, and write down what it found."""
    import jax

    from transformer_jax.data.text import TextFiles
    from transformer_jax.evaluation.bleu import exact_match, score_all
    from transformer_jax.testset import dataset_splits
    from transformer_jax.translator import Translator

    start = time.perf_counter()
    trained(task.config, task.folder, progress=False)
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
        "identity": task.identity,
        "parameters": sum(x.size for x in jax.tree.leaves(translator.params)),
        "perplexity": translator.perplexity(sources, references),
        **{score.name: score.value for score in scores},
        "signatures": {score.name: score.signature for score in scores},
        "training_seconds": recorded(task.folder)["training_seconds"],
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(task.result, found)
    return found


def run_all(wanted: Sequence[Task], jobs: int, cache: Path) -> None:
    """All tasks, `jobs` at a time, each in a process of its own."""
    # What the processes inherit: programs compiled for one row serve where it goes on; one thread
    # each where they are several, and no memory of a GPU taken ahead.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.absolute()))
    if jobs > 1:
        os.environ.setdefault("NPROC", "1")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    pool = ThreadPoolExecutor(jobs)
    try:
        for number, result in enumerate(pool.map(_in_a_process, wanted), 1):
            print(
                f"{number:3} of {len(wanted)}  {result['row']:16} seed {result['seed']}  "
                f"PPL {result['perplexity']:6.3f}  BLEU {result['BLEU']:5.1f}  "
                f"{result['seconds']:5.0f} s",
                flush=True,
            )
    finally:
        # Stopped, or one has failed: the others save what they have and end, too.
        pool.shutdown(wait=False, cancel_futures=True)
        for job in multiprocessing.active_children():
            job.terminate()
        pool.shutdown()


def _in_a_process(task: Task) -> dict:
    """What a task finds, by way of its file: a process may end as it likes."""
    if task.done() is None:
        job = multiprocessing.get_context("spawn").Process(target=_job, args=(task,))
        job.start()
        job.join()
    if (found := task.done()) is None:
        raise UserError(
            f"{task.folder} ended without a result (exit code {job.exitcode}; messages above): the "
            "same command goes on; -9 may be want of memory, then give fewer --jobs"
        )
    return found


def _job(task: Task) -> None:
    with at_a_terminal():
        run(task)


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


def entry(found: Sequence[dict], where: Where, arguments: argparse.Namespace) -> Entry:
    tables = [rows_table(found, "compound-split BLEU" if arguments.full else "BLEU")]
    if (claims := claims_table(found)).rows:
        tables.append(claims)
    missing = (
        "how many seeds the paper's rows have is not told"
        if arguments.full
        else "the rows at full size on WMT14 (--full), which need accelerators. The twin's numbers "
        "compare with each other only"
    )
    missing += (
        ". Intervals: 95% each, not corrected for their number; for learned positions 90% against "
        f"a margin of {MARGIN:.3f} ln PPL"
    )
    if absent := [row for row in PAPER if all(row != each["row"] for each in found)]:
        missing += f". Not run yet: {', '.join(absent)}"
    scale = "full size" if arguments.full else "twin on the embedded corpus"
    title = f"Table 3, variations of the architecture ({scale})"
    return Entry("table3_variations", title, where, tables, missing, {"runs": list(found)})


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/table3"), help="folder to write")
    parser.add_argument("--ledger", type=Path, help="folder of the result; default: --output")
    parser.add_argument("--rows", nargs="+", default=list(PAPER), help="default: all 20")
    parser.add_argument("--seeds", type=int, help="of rows that decide a claim; 5, --full: 1")
    parser.add_argument("--steps", type=int, help="updates; default: 1,000, or the paper's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    arguments = parser.parse_args(words)
    arguments.scale = "full" if arguments.full else "twin"
    if arguments.seeds is None:
        arguments.seeds = 1 if arguments.full else SEEDS
    if arguments.steps is None and not arguments.full:
        arguments.steps = STEPS
    for row in arguments.rows:
        if row not in PAPER:
            raise UserError(f"row {row!r} is none of Table 3; {nearest(row, PAPER)}")
    for name in ("seeds", "steps", "jobs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} must be positive")
    return arguments


def main() -> None:
    arguments = parse()
    where = Where.here(
        f"python -m experiments.table3_variations{' --full' if arguments.full else ''} "
        f"--seeds {arguments.seeds}" + (f" --steps {arguments.steps}" if arguments.steps else "")
    )
    run_all(tasks(arguments), arguments.jobs, arguments.output / "compiled")
    # Rows that other calls have run belong to the same table.
    arguments.rows = list(PAPER)
    found = [done for task in tasks(arguments) if (done := task.done()) is not None]
    # Of all runs, as one process after another.
    where = where.after(sum(each["seconds"] for each in found))
    made = entry(found, where, arguments)
    publish(f"table3-{arguments.scale}", made, arguments.ledger or arguments.output)


if __name__ == "__main__":
    with at_a_terminal():
        main()
