"""The main job on the embedded corpus, from nothing to scores and pictures in minutes on a CPU.

Trains preset `tiny` (2 + 2 layers) on 50,000 sentences that a grammar writes, then translates what
the grammar holds back: `test` is like the training text, the other splits are not.

    python -m experiments.demo                 under five minutes on two cores
    python -m experiments.demo --steps 12000   goes on from there, to about half an hour

Everything is written to one folder, whose name is printed last.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.data.datasets import DatasetText, load_dataset
from transformer_jax.data.grammar.corpus import SPLITS
from transformer_jax.data.preparation import cache_folder
from transformer_jax.evaluation.bleu import exact_match, sacre_score
from transformer_jax.job import train
from transformer_jax.search import Search
from transformer_jax.translator import Attention, Translator
from transformer_jax.visualization.attention import attention_map, by_word, words
from transformer_jax.visualization.curves import learning_curve

DATASET, DIRECTION = "grammar", "en-de"
STEPS = 1500
# Pronouns whose heads are compared, and the longest sentence to draw.
PRONOUNS, LONGEST = 100, 16


def configuration(steps: int) -> RunConfig:
    """The `tiny` recipe without dropout: the text does not repeat often enough to be learned."""
    config = presets.recipe("tiny")
    return replace(
        config,
        model=replace(config.model, dropout=0.0),
        data=replace(config.data, dataset=DATASET, direction=DIRECTION),
        train=replace(config.train, steps=steps),
    )


def scores(
    translator: Translator, splits: dict[str, DatasetText], count: int, output: Path
) -> dict[str, dict[str, float]]:
    """BLEU and exact match of each split's first `count` sentences; all translations on file."""
    found = {}
    with (output / "translations.tsv").open("w", encoding="utf-8") as file:
        file.write("split\tsource\treference\ttranslation\n")
        for name in SPLITS[1:]:
            pairs = list(splits[name])[:count]
            sources, references = zip(*pairs)
            translations = translator.translate(sources, Search())
            file.writelines(
                f"{name}\t{s}\t{r}\t{t}\n" for s, r, t in zip(sources, references, translations)
            )
            bleu, exact = (score(translations, references) for score in (_bleu, exact_match))
            found[name] = {"BLEU": bleu.value, "exact match": exact.value, "sentences": len(pairs)}
            print(f"{name:14} BLEU {bleu.value:5.1f}   exact match {exact.value:5.1f}%", flush=True)
    return found


def _bleu(translations: Sequence[str], references: Sequence[str]):
    return sacre_score("BLEU", translations, references)


def show_translations(output: Path, count: int = 4) -> None:
    """A few translations of the test split beside their references."""
    lines = (output / "translations.tsv").read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines if line.startswith("test\t")]
    for _, source, reference, translation in rows[:count]:
        print(f"\n  {source}\n  reference    {reference}\n  translation  {translation}")


def with_antecedent(split: DatasetText, count: int) -> Iterator[tuple[str, str, int, int]]:
    """(English, German, place of "it", place of its antecedent), counted in words."""
    for example in split.examples():
        if len(example["antecedents"]) and count:
            pronoun, noun = example["antecedents"][0]
            yield example["en"].decode(), example["de"].decode(), int(pronoun), int(noun)
            count -= 1


def pronoun_attention(translator: Translator, split: DatasetText, output: Path) -> dict:
    """Which encoder head looks from "it" to its antecedent, over many sentences; one drawn.

    A head's score is the mean weight from the pronoun to the noun; chance spreads the weight
    evenly over the words of a sentence and its end.
    """
    weights, chance, drawn = [], [], None
    for english, german, pronoun, noun in with_antecedent(split, PRONOUNS):
        seen = translator.attention(english, german)
        spread = _encoder_by_word(seen)
        weights.append(spread[:, :, pronoun, noun])
        chance.append(1 / spread.shape[-1])
        if drawn is None and spread.shape[-1] <= LONGEST and pronoun - noun > 3:
            drawn = seen, pronoun, noun
    scores = np.mean(weights, axis=0)
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    if drawn is not None:
        seen, pronoun, noun = drawn
        labels = [word for word, _ in words(seen.source)]
        title = f'encoder layer {layer + 1}, head {head + 1}: "it" and its antecedent'
        spread = _encoder_by_word(seen)[layer, head]
        figure = attention_map(spread, labels, labels, title=title, marks=[(pronoun, noun)])
        for kind in ("png", "svg"):
            figure.savefig(output / f"attention.{kind}", dpi=120)
    return {
        "layer": int(layer) + 1,
        "head": int(head) + 1,
        "mean weight": float(scores[layer, head]),
        "chance": float(np.mean(chance)),
        "sentences": len(weights),
    }


def _encoder_by_word(seen: Attention) -> np.ndarray:
    return by_word(seen.encoder, seen.source, seen.source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates in all")
    parser.add_argument("--sentences", type=int, default=200, help="of each split to translate")
    arguments = parser.parse_args()
    start, output = time.perf_counter(), arguments.output
    run_dir = output / "run"
    train(configuration(arguments.steps), run_dir)
    splits = load_dataset(DATASET, DIRECTION, None, cache_folder(None))
    translator = Translator.load(run_dir)
    print(f"\ntranslating with {translator.checkpoint}, beam search of 4")
    found = scores(translator, splits, arguments.sentences, output)
    show_translations(output)
    learning_curve(run_dir).savefig(output / "learning-curve.png", dpi=120)
    pronoun = pronoun_attention(translator, splits["test"], output)
    head = f"encoder layer {pronoun['layer']}, head {pronoun['head']}"
    share, chance = (f"{pronoun[name]:.0%}" for name in ("mean weight", "chance"))
    print(f'\n{head} gives {share} of the attention of "it" to its antecedent (chance {chance})')
    seconds = round(time.perf_counter() - start)
    result = {"steps": arguments.steps, "seconds": seconds, "scores": found, "pronoun": pronoun}
    (output / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{seconds} seconds. Scores, translations, learning curve and attention are in")
    print(output)


if __name__ == "__main__":
    main()
