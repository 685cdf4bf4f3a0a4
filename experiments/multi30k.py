"""Multi30k English-German: the paper's architecture against a published number on the same text.

Anchor   Wu et al., "Good for Misconceived Reasons" (ACL 2021, arXiv 2105.14462): Transformer-Tiny,
         41.02 BLEU on test2016, from data/multi30k/revisit-mmt-bpe (joint BPE, lower-cased).
         Scored on tokens with BPE undone, beam 5, length penalty length^1, average of the last 10
         epoch checkpoints.

    python -m experiments.multi30k --data ../shared/data/multi30k --run-dir runs/multi30k
    python -m experiments.multi30k ... --recipe cpu          batches of 2,048 tokens, fewer epochs
    python -m experiments.multi30k ... --text raw            raw text, our own SentencePiece

Run it again to resume where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.ledger import Cell, Entry, Provenance, Table, write_entry
from experiments.program import make_parser
from experiments.runs import training_summary
from experiments.tasks import BEAM, Task, folder_name
from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.decoding.options import Search
from transformer_jax.run.train import train
from transformer_jax.terminal import run_program

ANCHOR = 41.02  # tokenized BLEU
SEARCH = Search(beam_size=5, length_penalty="power", alpha=1.0)


def configuration(data: Path, text: str, recipe: str, steps: int | None) -> RunConfig:
    """The run: the `multi30k` preset on one of two texts, whole or cut down for a CPU."""
    config = presets.run_config("multi30k")
    folder, validation = data, "val"
    if text == "bpe":
        folder, validation = data / "revisit-mmt-bpe", "valid"

    def pair(name):
        return (str(folder / f"{name}.en"), str(folder / f"{name}.de"))

    config = replace(
        config,
        data=replace(
            config.data,
            train=pair("train"),
            validation=pair(validation),
            vocabulary="whitespace" if text == "bpe" else "bpe",
        ),
        train=replace(config.train, checkpoint_every_epoch=True, evaluate_every=250, keep_last=10),
    )
    if recipe == "cpu":
        # A quarter of the anchor's tokens an update, so half its peak rate or a little more,
        # reached sooner because there are fewer epochs.
        config = replace(
            config,
            optimizer=replace(
                config.optimizer,
                accumulation_steps=1,
                warmup_steps=1000,
                lr_factor=0.003 * (config.model.d_model * 1000) ** 0.5,
            ),
            data=replace(config.data, batch_tokens=2048),
        )
    if steps is not None:
        config = replace(config, train=replace(config.train, steps=steps))
    return config


def test_pairs(data: Path, text: str = "raw") -> tuple[Sequence[str], Sequence[str]]:
    """Sentences of test2016 and their references."""
    from transformer_jax.data.text import TextFiles

    folder, name = data, "test_2016_flickr"
    if text == "bpe":
        folder, name = folder / "revisit-mmt-bpe", "test.2016"
    sources, references = zip(*TextFiles(str(folder / f"{name}.en"), str(folder / f"{name}.de")))
    return sources, references


def score(data: Path, text: str, run_dir: Path) -> dict:
    """Translate test2016 as the anchor does and score it; raw text gets every score."""
    from transformer_jax.translator import Translator

    sources, references = test_pairs(data, text)
    found = Translator.load(run_dir).evaluate(sources, references, SEARCH, language="de")
    scores = {s.name: {"value": s.value, "signature": s.signature} for s in found.scores}
    return {"checkpoint": found.checkpoint, "perplexity": found.perplexity, "scores": scores}


@dataclass(frozen=True)
class CaptionTask(Task):
    """A run on Multi30k, whose folder is `data`, scored on its test set of 2016, too."""

    data: Path = Path()

    def further_scores(self, translator: Any) -> dict[str, float]:
        from transformer_jax.evaluation.bleu import sacrebleu_score

        sources, references = test_pairs(self.data)
        written = translator.translate(sources, BEAM, split_sentences="never")
        return {"BLEU test2016": sacrebleu_score("BLEU", written, references).value}


def caption_task(row: str, seed: int, recipe: RunConfig, output: Path, data: Path) -> CaptionTask:
    """A run of a recipe on Multi30k, on one device, in a folder of `output` of its own."""
    steps = recipe.train.steps
    train = replace(recipe.train, parallel="jit", seed=seed, log_every=min(50, steps))
    folder = output / f"{folder_name(row, seed)}-{steps}"
    return CaptionTask(row, seed, replace(recipe, train=train), folder, None, "multi30k", data)


def entry(arguments, config: RunConfig, scores: dict, where: Provenance) -> Entry:
    """What was run, where, how long, and what came out."""
    found = training_summary(arguments.run_dir)
    details = {"seed": config.train.seed, **scores, **found}
    where = where.with_duration(found["training_seconds"])
    return as_entry(arguments.text, arguments.recipe, config.train.steps, details, where)


def as_entry(text: str, recipe: str, steps: int, details: dict, where: Provenance) -> Entry:
    rows: list[list[Cell]] = [
        [name, ANCHOR if (text, name) == ("bpe", "tokenized BLEU") else None, found["value"],
         found["signature"]]
        for name, found in details["scores"].items()
    ]  # fmt: skip
    rows.append(["perplexity a token", None, details["perplexity"], ""])
    missing = {
        "anchor": f"the anchor's seed, and its 8,000 updates (here {steps:,})",
        "cpu": "the anchor's batches of 8,192 tokens (here 2,048) and its 150 epochs",
    }[recipe]
    return Entry(
        "multi30k",
        f"Multi30k en-de, text {text}, recipe {recipe}, {steps:,} updates",
        where,
        [Table("Scores", ["score", "arXiv 2105.14462", "ours", "signature"], rows)],
        missing if text == "bpe" else "the anchor is for another text: nobody published this one",
        details,
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--text", choices=("bpe", "raw"), default="bpe")
    parser.add_argument("--recipe", choices=("anchor", "cpu"), default="anchor")
    parser.add_argument("--steps", type=int, help="updates in all (default: the recipe's 8,000)")
    parser.add_argument("--commit", default="", help="commit that trained (default: HEAD)")
    arguments = parser.parse_args()

    config = configuration(arguments.data, arguments.text, arguments.recipe, arguments.steps)
    steps = config.train.steps
    where = Provenance.here(
        "python -m experiments.multi30k --data ../shared/data/multi30k --run-dir RUN "
        f"--recipe {arguments.recipe} --text {arguments.text} --steps {steps}",
        arguments.commit,
    )
    train(config, arguments.run_dir)
    scores = score(arguments.data, arguments.text, arguments.run_dir)
    found = entry(arguments, config, scores, where)
    folder = arguments.results_dir or arguments.run_dir
    print(write_entry(f"multi30k-{arguments.text}-{arguments.recipe}-{steps}", found, folder))


if __name__ == "__main__":
    run_program(main)
