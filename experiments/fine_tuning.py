"""Fine-tuning: a model of everyday sentences (Tatoeba) learns captions (Multi30k), and forgets.

    python -m experiments.fine_tuning --old TATOEBA --new MULTI30K

A model is trained on --old, leaves as a folder of Hugging Face, and comes back by import, as any
model of that toolkit would. Then it learns from 5,000 pairs of --new in several ways, beside a
fresh model that has nothing but these pairs; all are scored on both texts. Run it again to resume
where it stopped.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments import multi30k
from experiments.ledger import Cell, Entry, Provenance, Table
from experiments.program import check_positive, make_parser, publish_result
from experiments.runs import training_summary
from transformer_jax import Translator
from transformer_jax.config import OptimizerConfig, RunConfig, TrainConfig
from transformer_jax.data.text import TextFiles
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run
from transformer_jax.run.train import train
from transformer_jax.terminal import run_program
from transformer_jax.weights import export_model, import_model

STEPS, TUNING_STEPS, PAIRS = 6000, 1200, 5000
SHAPES = 8  # of batches of the new text
FRESH_TYPES = 4000  # of the vocabulary of the new text alone
# Of the lines of --old that are held out, these decide nothing in training.
HELD_OUT, LAST = 1000, 2000
SEARCH = Search(beam_size=4)
Text = tuple[str, str]
Pairs = tuple[Sequence[str], Sequence[str]]


def pretraining(arguments: argparse.Namespace) -> RunConfig:
    """Training from nothing on the old text: the model and the recipe of `experiments.multi30k`."""
    steps = arguments.steps
    config = multi30k.configuration(arguments.old, "raw", "cpu", steps)
    validation = _write_lines(
        arguments.old, "val", slice(HELD_OUT), arguments.output / "validation"
    )
    return replace(
        config,
        data=replace(config.data, validation=validation, direction="en-de"),
        train=replace(
            config.train, checkpoint_every_epoch=False, evaluate_every=max(1, steps // 8),
            checkpoint_every=max(1, steps // 40), keep_last=5, average_last=5,
        ),
    )  # fmt: skip


def tuning(arguments: argparse.Namespace, model: RunConfig, new: Text) -> RunConfig:
    """Fine-tuning on the new text: a constant rate, a tenth of that which the model began with."""
    steps = arguments.tuning_steps
    data = arguments.new
    return replace(
        model,
        model=replace(model.model, dropout=0.3, kernels="auto"),
        optimizer=OptimizerConfig(
            peak_learning_rate=3e-4, warmup_steps=100, schedule="constant"
        ),
        data=replace(
            model.data, train=new, validation=(str(data / "val.en"), str(data / "val.de")),
            batch_tokens=2048, max_length=128, max_batch_shapes=SHAPES,
        ),
        train=TrainConfig(
            steps=steps, evaluate_every=max(1, steps // 12), checkpoint_every=max(1, steps // 12),
        ),
    )  # fmt: skip


def ways(
    arguments: argparse.Namespace, first: RunConfig, imported: RunConfig, new: Text
) -> dict[str, tuple[RunConfig, bool]]:
    """Name -> what is trained on the new text, and whether it begins with the old model."""
    plain = tuning(arguments, imported, new)
    old = (str(arguments.old / "train.en"), str(arguments.old / "train.de"))
    frozen = replace(plain.optimizer, frozen=("embedding", "encoder_*"))
    fresh = replace(
        plain,
        model=replace(first.model, vocab_size=FRESH_TYPES),
        # Its own text is small, and its rate that of training from nothing.
        optimizer=OptimizerConfig(peak_learning_rate=2e-3, warmup_steps=400),
    )
    return {
        "fine-tuned": (plain, True),
        "fine-tuned, old text 1:1": (
            replace(plain, data=replace(plain.data, mixed_text=old)), True,
        ),
        "fine-tuned, encoder and table frozen": (replace(plain, optimizer=frozen), True),
        "fresh": (fresh, False),
    }  # fmt: skip


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def _write_lines(folder: Path, name: str, some: slice, out: Path) -> Text:
    """Write some of the lines of a text, and return their files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out.with_name(f"{out.name}.{language}") for language in ("en", "de")]
    for path in paths:
        lines = _lines(folder / f"{name}{path.suffix}")[some]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(paths[0]), str(paths[1])


def score(run_dir: Path, checkpoint: str, tests: dict[str, Pairs]) -> dict[str, Any]:
    """Translate the test text of both kinds and score it."""
    translator = Translator.load(run_dir, checkpoint=checkpoint)
    found: dict[str, Any] = {}
    for name, (sources, references) in tests.items():
        each = translator.evaluate(sources, references, SEARCH, language="de")
        found[name] = {
            "checkpoint": each.checkpoint,
            "translations": each.translations,
            **{s.name: {"value": s.value, "signature": s.signature} for s in each.scores},
        }
    return found


def find(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train, leave, return, fine-tune and score; name -> what was found."""
    output: Path = arguments.output
    first, back, left = (output / name for name in ("old", "imported", "huggingface"))
    every = len(_lines(arguments.new / "train.en")) // arguments.pairs
    if every == 0:
        raise UserError(f"--pairs {arguments.pairs} are more than {arguments.new} has")
    if Run.exists(back):
        known = json.loads((left / "export.json").read_text("utf-8"))["checkpoint"]
        if known != f"averaged at step {arguments.steps}":
            raise UserError(
                f"{back} holds the model {known}, not of --steps {arguments.steps}: choose another "
                "--output"
            )
    held_out = _write_lines(arguments.old, "val", slice(HELD_OUT, LAST), output / "test")
    sources, references = zip(*TextFiles(*held_out))
    tests = {"old": (sources, references), "new": multi30k.test_pairs(arguments.new)}
    config = pretraining(arguments)
    train(config, first)
    found = {"trained on the old text": score(first, "averaged", tests) | _training(first, config)}

    if not Run.exists(back):
        shutil.rmtree(left, ignore_errors=True)
        export_model(first, "huggingface", left)
        import_model(left, back)
    found["the same, out and in"] = score(back, "averaged", tests)

    some = slice(0, arguments.pairs * every, every)
    new = _write_lines(arguments.new, "train", some, output / "new")
    imported = Run.open(back).config
    for name, (wanted, begins_with_it) in ways(arguments, config, imported, new).items():
        folder = output / name.replace(", ", "-").replace(" ", "-").replace(":", "-")
        train(wanted, folder, init_from=back if begins_with_it else None)
        found[name] = score(folder, "best", tests) | _training(folder, wanted)
    return found


def _training(folder: Path, config: RunConfig) -> dict[str, Any]:
    summary = training_summary(folder)
    return {
        "steps": config.train.steps,
        "optimizer": asdict(config.optimizer),
        "pairs": len(Run.open(folder).training_corpus()),
        **summary,
    }


def as_entry(arguments: argparse.Namespace, found: dict[str, Any], where: Provenance) -> Entry:
    rows: list[list[Cell]] = []
    for name, each in found.items():
        seconds = each.get("training_seconds")
        scores = [
            each[text][score]["value"] for text in ("old", "new") for score in ("BLEU", "chrF")
        ]
        rows.append([name, each.get("steps"), seconds and seconds / 60, *scores])
    first, again = (found[name]["old"]["translations"] for name in list(found)[:2])
    equal = 100 * sum(a == b for a, b in zip(first, again)) / len(first)
    for each in found.values():
        for text in ("old", "new"):
            del each[text]["translations"]
    columns = [
        "model", "updates", "minutes", "old text: BLEU", "chrF", "new text: BLEU", "chrF",
    ]  # fmt: skip
    seconds = sum(each.get("training_seconds", 0) for each in found.values())
    return Entry(
        "fine_tuning",
        f"Fine-tuning on {arguments.pairs:,} pairs of another kind",
        where.with_duration(seconds),
        [Table("", columns, rows, 1)],
        f"a published model to begin with, which is not at hand; one seed. {equal:.1f}% of the "
        "translations of the old text are the same before leaving and after return. Old text: "
        "1,000 held-out sentences of Tatoeba; new text: test2016 of Multi30k; beam 4. The "
        "checkpoint with the best validation loss on the new text is scored, of the first two rows "
        "the average of five. Minutes are those of training",
        {"found": found},
    )


def main() -> None:
    parser = make_parser(__doc__, "runs/fine_tuning")
    parser.add_argument("--old", type=Path, required=True, help="folder of Tatoeba")
    parser.add_argument("--new", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates on the old text")
    parser.add_argument("--tuning-steps", type=int, default=TUNING_STEPS, help="on the new text")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of the new text")
    arguments = parser.parse_args()
    check_positive(arguments, "steps", "tuning_steps", "pairs")
    where = Provenance.here(
        f"python -m experiments.fine_tuning --old {arguments.old} --new {arguments.new} "
        f"--steps {arguments.steps} --tuning-steps {arguments.tuning_steps} "
        f"--pairs {arguments.pairs}"
    )
    publish_result("fine_tuning", as_entry(arguments, find(arguments), where), arguments)


if __name__ == "__main__":
    run_program(main)
