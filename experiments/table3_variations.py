"""Table 3: what each choice of the architecture is worth, all 20 rows.

    python -m experiments.table3_variations                       scaled down: 68 small runs
    python -m experiments.table3_variations --rows base B-dk-16   some rows; the table has all done
    python -m experiments.table3_variations --full --data-dir WMT --jobs 1

Whole (--full): presets `table3-ROW` on WMT14 en-de, scored on newstest2013 without averaging; big
takes 300,000 updates, the others 100,000. One seed, unless --seeds says more.

Scaled down (without it): every width of the paper's base model divided by 8 and its depth by 2, on
3,000 sentences of the embedded grammar of at most 9 words. They are few, so that they repeat as
often as WMT's did in the paper and dropout has something to do, and short, so that 1,000 updates
lead far enough: both were chosen by trial runs of base and of the row without dropout. The rows
that the paper's observations rest on have five seeds; two rows of one seed see the same batches, so
their differences are paired. Perplexity and BLEU are those of 500 sentences of the grammar's
validation split, as short.

A run that is finished is not run again: the same command resumes where it was stopped.
"""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from experiments.claims import Claim, decide
from experiments.ledger import Entry, Provenance, Table, merge_provenance
from experiments.program import check_positive, make_parser, publish_result
from experiments.runs import named_before
from experiments.tasks import Task, run_all
from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.data.grammar.corpus import stream
from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.files import folder_lock, replaced_folder
from transformer_jax.terminal import run_program


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
# Scaled down: pairs to train on, pairs to score, English words of the longest, updates; and by how
# much the model is smaller.
PAIRS, SCORED, LONGEST, STEPS = 3000, 500, 9, 1000
WIDTH, DEPTH = 8, 2
SEEDS = 5
# Learned positions are as good if they differ by less than half of what one head costs in the
# paper: 3.6% of the perplexity, 0.45 BLEU.
MARGINS = {
    "perplexity": math.log(PAPER["A-heads-1"].perplexity / PAPER["base"].perplexity) / 2,
    "BLEU": (PAPER["base"].BLEU - PAPER["A-heads-1"].BLEU) / 2,
}


CLAIMS = (
    Claim("A: a single head is worse", "A-heads-1", "perplexity", +1),
    Claim("A: a single head is worse", "A-heads-1", "BLEU", -1),
    Claim("A: too many heads are worse, too", "A-heads-32", "perplexity", +1),
    Claim("A: too many heads are worse, too", "A-heads-32", "BLEU", -1),
    Claim("B: smaller keys hurt", "B-dk-16", "perplexity", +1),
    Claim("B: smaller keys hurt", "B-dk-16", "BLEU", -1),
    Claim("C: bigger is better: fewer layers are worse", "C-layers-2", "perplexity", +1),
    Claim("C: bigger is better: fewer layers are worse", "C-layers-2", "BLEU", -1),
    Claim("C: bigger is better: more layers are better", "C-layers-8", "perplexity", -1),
    Claim("C: bigger is better: more layers are better", "C-layers-8", "BLEU", +1),
    Claim("C: bigger is better: a narrower model is worse", "C-dmodel-256", "perplexity", +1),
    Claim("C: bigger is better: a narrower model is worse", "C-dmodel-256", "BLEU", -1),
    Claim("C: bigger is better: a wider model is better", "C-dmodel-1024", "perplexity", -1),
    Claim("C: bigger is better: a wider model is better", "C-dmodel-1024", "BLEU", +1),
    Claim("C: bigger is better: a wider feed-forward is better", "C-dff-4096", "perplexity", -1),
    Claim("C: bigger is better: a wider feed-forward is better", "C-dff-4096", "BLEU", +1),
    Claim("D: dropout helps: none is worse", "D-dropout-0.0", "perplexity", +1),
    Claim("D: dropout helps: none is worse", "D-dropout-0.0", "BLEU", -1),
    Claim("D: smoothing hurts perplexity: none is better", "D-smoothing-0.0", "perplexity", -1),
    Claim("D: smoothing helps BLEU: none is worse", "D-smoothing-0.0", "BLEU", -1),
    Claim("E: learned positions make no difference", "E-learned", "perplexity", 0),
    Claim("E: learned positions make no difference", "E-learned", "BLEU", 0),
)


def scaled_config(row: str, text: Path, seed: int, steps: int = STEPS) -> RunConfig:
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
        replace(presets.run_config("tiny").optimizer, **optimizer),
        replace(
            presets.run_config("tiny").data,
            train=(str(text / "train.en"), str(text / "train.de")),
            validation=(str(text / "validation.en"), str(text / "validation.de")),
            cache_dir=str(text / "cache"),
        ),
        replace(
            presets.run_config("table3-base").train,
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
    config = presets.run_config(f"table3-{row}")
    data = replace(config.data, dataset="wmt14_translate", direction="en-de", data_dir=data_dir)
    steps = config.train.steps if steps is None else steps
    return replace(config, data=data, train=replace(config.train, seed=seed, steps=steps))


def write_text(folder: Path) -> Path:
    """The first short sentences of the grammar's train and validation splits, as files."""
    text = folder / f"text-{PAIRS}-{SCORED}-{LONGEST}"
    with folder_lock(folder):  # another program may write it
        if not text.exists():
            with replaced_folder(text) as partial:
                _write_pairs(partial)
    return text


def _write_pairs(folder: Path) -> None:
    wanted = {"train": PAIRS, "validation": SCORED}
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in wanted}
    for split, example in stream():
        if split in wanted and example.length <= LONGEST and len(found[split]) < wanted[split]:
            found[split].append((example.english, example.german))
        if all(len(found[split]) == count for split, count in wanted.items()):
            break
    for split, pairs in found.items():
        for language, side in zip(("en", "de"), zip(*pairs)):
            lines = "".join(f"{line}\n" for line in side)
            (folder / f"{split}.{language}").write_text(lines, encoding="utf-8")


def task(arguments: argparse.Namespace, row: str, seed: int) -> Task:
    folder = arguments.folder / f"{row}-{seed}"
    if arguments.full:
        config = full(row, arguments.data_dir, seed, arguments.steps)
        return Task(row, seed, config, folder, None, "newstest2013")
    text = write_text(arguments.output)
    config = scaled_config(row, text, seed, arguments.steps)
    return Task(row, seed, config, folder, SCORED, text.name)


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """What there is to run: the rows that decide a claim first, then those with one seed."""
    decisive = {"base", *(claim.row for claim in CLAIMS)}
    rows = sorted(dict.fromkeys(arguments.rows), key=lambda row: row not in decisive)
    return [
        task(arguments, row, seed)
        for row in rows
        for seed in range(arguments.seeds if arguments.full or row in decisive else 1)
    ]


def finished(arguments: argparse.Namespace) -> list[dict]:
    """What all runs of this scale and so many updates have found, those of other calls too."""
    found = []
    for row in PAPER:
        for path in sorted((arguments.output / arguments.scale).glob(f"{row}-*/result.json")):
            seed = path.parent.name.removeprefix(f"{row}-")
            if seed.isdecimal() and (done := task(arguments, row, int(seed)).cached_result()):
                found.append(done)
    return found


def rows_table(found: Sequence[dict], score: str) -> Table:
    """All rows beside the paper's; the mean over seeds."""
    rows = []
    for row, (perplexity, bleu, millions) in PAPER.items():
        own = [result for result in found if result["row"] == row]
        if own:
            mean = [sum(r[name] for r in own) / len(own) for name in ("perplexity", score)]
            ours = [*mean, own[0]["parameters"] / 1e6, own[0]["steps"], len(own)]
            rows.append([row, perplexity, bleu, millions, *ours])
    paper = ["row", "PPL, paper", "BLEU, paper", "params/1e6, paper"]
    ours = ["PPL, ours", f"{score}, ours", "params/1e6, ours", "updates", "seeds"]
    return Table("Rows", [*paper, *ours], rows, 3)


def claims_table(found: Sequence[dict], score: str) -> Table:
    """What the paper observes, its numbers, and ours as paired intervals."""
    rows = []
    found = [{**each, "BLEU": each[score]} for each in found]
    for claim in CLAIMS:
        judged = decide(claim, found, MARGINS[claim.measure])
        if judged is None:
            continue
        interval, verdict = judged
        there, base = (getattr(PAPER[row], claim.measure) for row in (claim.row, "base"))
        name = "ln PPL" if claim.measure == "perplexity" else "BLEU"
        paper = math.log(there / base) if name == "ln PPL" else there - base
        rows.append([claim.observation, claim.row, name, paper, *interval, verdict])
    columns = ["observation", "row - base", "of", "paper", "ours", "from", "to", "pairs", "verdict"]
    return Table("Observations", columns, rows, 3)


def missing(found: Sequence[dict], is_full: bool) -> str:
    """What a comparison with the paper lacks, and what the intervals do not cover."""
    said = [
        "how many seeds the paper's rows have is not told"
        if is_full
        else "the rows at full size on WMT14 (--full), which need accelerators. Scaled-down "
        "numbers compare with each other only. The amount of text and of updates was chosen by "
        "trial runs of base and of no dropout: that dropout helps is so in part by that choice. "
        "big has as many updates as the others, in the paper three times as many",
        "Intervals: 95% each, not corrected for their number; of seeds, which draw parameters, "
        "order and dropout: all runs have the same text. Learned positions: 90% against half of "
        f"what a single head costs in the paper, {MARGINS['perplexity']:.3f} ln PPL and "
        f"{MARGINS['BLEU']:.2f} BLEU (what it costs here stands in its rows; five seeds can "
        "hardly show so small a difference of BLEU)",
        "More layers: the paper's own row has the better perplexity and the lower BLEU",
    ]
    short = {
        each["row"]: f"{each['steps']:,} of {steps:,}"
        for each in found
        if is_full and each["steps"] < (steps := full(each["row"], None, 0).train.steps)
    }
    if short:
        said.append(f"Updates: {', '.join(f'{row} {of}' for row, of in short.items())}")
    if absent := [row for row in PAPER if all(row != each["row"] for each in found)]:
        said.append(f"Not run yet: {', '.join(absent)}")
    return ". ".join(said)


def entry(found: Sequence[dict], arguments: argparse.Namespace) -> Entry:
    score = "compound-split BLEU" if arguments.full else "BLEU"
    tables = [rows_table(found, score)]
    if (claims := claims_table(found, score)).rows:
        tables.append(claims)
    where = merge_provenance(
        f"python -m experiments.table3_variations{' --full' if arguments.full else ''} "
        f"--seeds {1 + max(each['seed'] for each in found)}"
        + (f" --steps {arguments.steps}" if arguments.steps else ""),
        [Provenance(**each["where"]) for each in found],
    )
    scale = "full size" if arguments.full else "scaled down, on the embedded corpus"
    title = f"Table 3, variations of the architecture ({scale})"
    caveats = missing(found, arguments.full)
    return Entry("table3_variations", title, where, tables, caveats, {"runs": list(found)})


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/table3")
    parser.add_argument("--rows", nargs="+", default=list(PAPER), help="default: all 20")
    parser.add_argument("--seeds", type=int, help="of rows that decide a claim; 5, --full: 1")
    parser.add_argument("--steps", type=int, help="updates; default: 1,000, or the paper's")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: one a core, --full: 1")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    arguments = parser.parse_args(argv)
    arguments.scale = "full" if arguments.full else "small"
    arguments.folder = named_before(arguments.output / arguments.scale, "small", "twin")
    if arguments.seeds is None:
        arguments.seeds = 1 if arguments.full else SEEDS
    if arguments.jobs is None:
        arguments.jobs = 1 if arguments.full else os.cpu_count()
    if arguments.steps is None and not arguments.full:
        arguments.steps = STEPS
    if arguments.data_dir and not arguments.full:
        raise UserError(f"--data-dir {arguments.data_dir} is of --full: others write their text")
    for row in arguments.rows:
        if row not in PAPER:
            raise UserError(f"{row!r} is not a row of Table 3; {did_you_mean(row, PAPER)}")
    check_positive(arguments, "seeds", "steps", "jobs")
    return arguments


def main() -> None:
    arguments = parse()
    run_all(tasks(arguments), arguments.jobs, arguments.output / "compiled")
    result = entry(finished(arguments), arguments)
    publish_result(f"table3-{arguments.scale}", result, arguments)


if __name__ == "__main__":
    run_program(main)
