"""The main job on the embedded corpus, from nothing to scores and pictures in minutes on a CPU.

Trains preset `tiny` (2 + 2 layers) on 30,000 sentences that a grammar writes, then translates what
the grammar holds back: `test` is like the training text, the other splits are not.

    python -m experiments.demo                 under five minutes on two cores
    python -m experiments.demo --steps 12000   resumes from there, to about half an hour

Everything is written to one folder, whose name is printed last.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.figures3_5_heads import MEASURES, best, head_scores, sentences
from experiments.ledger import Cell, Entry, Provenance, Table, write_entry
from experiments.program import make_parser
from experiments.runs import training_summary
from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.data.datasets import DatasetSplit
from transformer_jax.data.grammar.corpus import SPLITS
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import exact_match, sacrebleu_score
from transformer_jax.run.splits import dataset_splits
from transformer_jax.run.train import train
from transformer_jax.terminal import run_program
from transformer_jax.translator import Translator
from transformer_jax.visualization.attention import attention_map
from transformer_jax.visualization.curves import learning_curve

DATASET, DIRECTION = "grammar", "en-de"
STEPS = 1500
# Translations to print; sentences with "it" to compare heads on; words of the longest to draw.
SHOWN, PRONOUNS, LONGEST = 4, 100, 16


def configuration(steps: int) -> RunConfig:
    """The `tiny` recipe without dropout: the text does not repeat often enough to be learned."""
    config = presets.run_config("tiny")
    return replace(
        config,
        model=replace(config.model, dropout=0.0),
        data=replace(config.data, dataset=DATASET, direction=DIRECTION),
        train=replace(config.train, steps=steps),
    )


def scores(
    translator: Translator, splits: dict[str, DatasetSplit], count: int, output: Path
) -> dict[str, dict[str, Any]]:
    """BLEU and exact match of each split's first `count` sentences; all translations on file."""
    found = {}
    with (output / "translations.tsv").open("w", encoding="utf-8") as file:
        file.write("split\tsource\treference\ttranslation\n")
        for name, text in splits.items():
            pairs = list(itertools.islice(text, count))
            sources, references = zip(*pairs)
            translations = translator.translate(sources, Search(), split_sentences="never")
            rows = list(zip(sources, references, translations))
            file.writelines("\t".join((name, *row)) + "\n" for row in rows)
            bleu = sacrebleu_score("BLEU", translations, references)
            exact = exact_match(translations, references)
            found[name] = {
                "BLEU": bleu.value,
                "exact match": exact.value,
                "sentences": len(rows),
                "signature": bleu.signature,
            }
            print(f"{name:14} BLEU {bleu.value:5.1f}   exact match {exact.value:5.1f}%", flush=True)
            if name == "test":
                shown = rows[:SHOWN]
    for source, reference, translation in shown:
        print(f"\n  {source}\n  reference    {reference}\n  translation  {translation}")
    return found


def pronoun_attention(
    translator: Translator, splits: dict[str, DatasetSplit], output: Path
) -> dict:
    """The encoder head that looks from "it" to its antecedent; chosen on validation, told on test.

    A head's score is the mean weight from the pronoun to the noun; chance spreads the weight
    evenly over the words of a sentence and its end. A head that always looks so many words back
    would find some, too: that is told beside it, and what is beyond it chooses the head.
    """
    choosing, test = (
        sentences(translator, splits[name], PRONOUNS) for name in ("validation", "test")
    )
    [(layer, head)] = best(head_scores(choosing).order, "antecedent")
    found = head_scores(test)
    measures = (found.own[layer, head], found.fixed["even weights"], found.alone[layer, head])
    score, chance, alone = (float(each[MEASURES.index("antecedent")]) for each in measures)
    short = [s for s in test if len(s.labels) <= LONGEST and s.pronoun - s.noun > 3]
    if short:
        # A typical sentence: the one whose weight is closest to the mean.
        drawn = min(short, key=lambda s: abs(s.weights[layer, head, s.pronoun, s.noun] - score))
        figure = attention_map(
            drawn.weights[layer, head],
            drawn.labels,
            drawn.labels,
            title=f"encoder layer {layer + 1}, head {head + 1}",
            marks=[(drawn.pronoun, drawn.noun)],
        )
        for kind in ("png", "svg"):
            figure.savefig(output / f"attention.{kind}", dpi=120)
    return {
        "layer": layer + 1,
        "head": head + 1,
        "mean weight": score,
        "chance": chance,
        "by distance": alone,
        "sentences": len(test),
    }


def entry(steps: int, found: dict, pronoun: dict, where: Provenance) -> Entry:
    rows = [[name, *told.values()] for name, told in found.items()]
    head = f"{pronoun['layer']}.{pronoun['head']}"
    names = ("mean weight", "chance", "by distance", "sentences")
    weights: list[Cell] = [head, *(pronoun[name] for name in names)]
    return Entry(
        "demo",
        f"The embedded corpus, {steps:,} updates",
        where,
        [
            Table(
                "Translations",
                ["split", "BLEU", "exact match, %", "sentences", "signature"],
                rows,
                1,
            ),
            Table(
                "Head of the encoder that finds antecedents",
                [
                    "layer.head",
                    'weight from "it" to its antecedent',
                    "chance",
                    "by its distances alone",
                    "sentences",
                ],
                [weights],
            ),
        ],
        "nothing: the paper has no such corpus",
    )


def main() -> None:
    parser = make_parser(__doc__, "runs/demo")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates in all")
    parser.add_argument("--sentences", type=int, default=150, help="of each split to translate")
    arguments = parser.parse_args()
    for name in ("steps", "sentences"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)} must be positive")
    start, output = time.perf_counter(), arguments.output
    where = Provenance.here(
        f"python -m experiments.demo --steps {arguments.steps} --sentences {arguments.sentences}"
    )
    run_dir = output / "run"
    train(configuration(arguments.steps), run_dir)
    splits = dataset_splits(run_dir)
    translator = Translator.load(run_dir)
    print(f"\ntranslating with {translator.checkpoint}, beam search of 4")
    held_out = {name: splits[name] for name in SPLITS[1:]}
    found = scores(translator, held_out, arguments.sentences, output)
    learning_curve(run_dir).savefig(output / "learning-curve.png", dpi=120)
    pronoun = pronoun_attention(translator, splits, output)
    head = f"encoder layer {pronoun['layer']}, head {pronoun['head']}"
    share, chance, alone = (
        f"{pronoun[name]:.0%}" for name in ("mean weight", "chance", "by distance")
    )
    print(
        f'\n{head} gives {share} of the attention of "it" to its antecedent '
        f"(chance {chance}, by its distances alone {alone})"
    )
    seconds = time.perf_counter() - start
    # What a resumed run had taken before is in its own record.
    whole = max(seconds, training_summary(run_dir)["training_seconds"])
    result = entry(arguments.steps, found, pronoun, where.with_duration(whole))
    write_entry(f"demo-{arguments.steps}", result, arguments.results_dir or output)
    print(f"{seconds:.0f} seconds. Scores, translations, learning curve and attention are in")
    print(output)


if __name__ == "__main__":
    run_program(main)
