"""Table 2: translation of news, en-de and en-fr, base and big, and what each choice adds.

    python -m experiments.table2_translation --pair en-de --size base --full      WMT14
    python -m experiments.table2_translation --pair en-de --shared ../shared/data     scaled down

Paper    BLEU 27.3 (base) and 28.4 (big) for en-de, 38.1 and 41.8 (the text: 41.0) for en-fr.
Whole    wmt14_translate; 37,000 pieces for en-de and 32,000 for en-fr, shared; batches of 25,000
         tokens a side; equation 3; the average of the last 5 (base) or 20 (big) checkpoints, 1,250
         or 600 updates apart, which is about ten minutes; beam 4, alpha 0.6; newstest2014.
Without  the same path with preset `tiny` on what is at hand: for en-de other years of newstest and
         Tatoeba, for en-fr the Bible and Multi30k's captions; scored on the first sentences of
         newstest2013. It shows that the path runs, and which way each choice moves a score.

Each score has its signature, and the ledger tells what averaging, the length penalty, the beam, the
splitting of compounds and (with --reduced) the test set add. Run it again to resume.
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.ledger import Entry, Provenance, Table
from experiments.program import make_parser, publish_result
from experiments.runs import named_before, training_summary
from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.data.text import TextFiles, read_lines
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import bleu_variants
from transformer_jax.files import write_atomically
from transformer_jax.run.splits import dataset_splits
from transformer_jax.run.train import train
from transformer_jax.terminal import run_program

# (pair, size) -> BLEU in the paper; en-fr big as the table has it.
PAPER = {
    ("en-de", "base"): 27.3,
    ("en-de", "big"): 28.4,
    ("en-fr", "base"): 38.1,
    ("en-fr", "big"): 41.8,
}
# Section 5.1: byte pairs for en-de, word pieces for en-fr, of both languages together.
VOCABULARY = {"en-de": 37_000, "en-fr": 32_000}
BEAM = Search(beam_size=4, alpha=0.6)
# What is translated: name -> (checkpoint, search). Each differs from the first by one choice.
DECODING_SETTINGS = {
    "as in the paper": ("averaged", BEAM),
    "no averaging": ("last", BEAM),
    "no length penalty": ("averaged", replace(BEAM, alpha=0.0)),
    "greedy": ("averaged", Search(method="greedy")),
}
# Scaled down: pieces, updates, tokens a batch, sentences to score.
PIECES, STEPS, BATCH_TOKENS, SCORED = 8000, 2000, 2048, 500
NEWS = ("news-test2008", *(f"newstest20{y:02}" for y in (9, 10, 11, 12, 15, 16, 17, 18, 19, 20)))


@dataclass(frozen=True)
class Corpus:
    """Files that the scaled-down run reads: training text as (folder, stem or both names), and a
    test set."""

    train: Sequence[tuple[str, str]]
    test: tuple[str, str]


LOCAL_CORPORA = {
    "en-de": Corpus(
        [
            *((f"wmt-newstest/{n}.en-de.en", f"wmt-newstest/{n}.en-de.de") for n in NEWS),
            ("tatoeba-en-de/train.en", "tatoeba-en-de/train.de"),
        ],
        ("wmt-newstest/newstest2013.en-de.en", "wmt-newstest/newstest2013.en-de.de"),
    ),
    "en-fr": Corpus(
        [
            ("bible/train.en-web.gz", "bible/train.fr-lsg.gz"),
            ("multi30k/train.en", "multi30k/train.fr"),
        ],
        ("wmt-newstest/newstest2013.en-fr.en", "wmt-newstest/newstest2013.en-fr.fr"),
    ),
}


def full(pair: str, size: str, data_dir: str | None) -> RunConfig:
    """The paper's run."""
    config = presets.run_config(size)
    dropout = 0.1 if (pair, size) == ("en-fr", "big") else config.model.dropout
    return replace(
        config,
        model=replace(config.model, vocab_size=VOCABULARY[pair], dropout=dropout),
        data=replace(config.data, dataset="wmt14_translate", direction=pair, data_dir=data_dir),
    )


def scaled_config(pair: str, size: str, text: Path, steps: int) -> RunConfig:
    """The same path, small: big is tiny with twice the width, and averages more checkpoints."""
    config = presets.run_config("tiny")
    wide: dict[str, Any] = {
        "d_model": 256,
        "d_ff": 512,
        "num_heads": 8,
        "d_k": 32,
        "d_v": 32,
        "dropout": 0.3,
    }
    average = presets.run_config(size).train.average_last
    source, target = pair.split("-")
    return replace(
        config,
        model=replace(config.model, vocab_size=PIECES, **(wide if size == "big" else {})),
        data=replace(
            config.data,
            train=(str(text / f"train.{source}"), str(text / f"train.{target}")),
            validation=(str(text / f"test.{source}"), str(text / f"test.{target}")),
            cache_dir=str(text / "cache"),
            batch_tokens=BATCH_TOKENS,
            direction=pair,
        ),
        train=replace(
            config.train,
            steps=steps,
            evaluate_every=max(steps // 4, 1),
            checkpoint_every=max(steps // 40, 1),
            keep_last=average,
            average_last=average,
        ),
    )


def write_text(folder: Path, shared: Path, pair: str) -> Path:
    """The text at hand as two files a side, sentences empty on one side left out."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = LOCAL_CORPORA[pair]
    for name, files in (("train", corpus.train), ("test", [corpus.test])):
        texts = [TextFiles(str(shared / source), str(shared / target)) for source, target in files]
        pairs = [pair for text in texts for pair in text if all(pair)]
        for language, side in zip(pair.split("-"), zip(*pairs)):
            path = folder / f"{name}.{language}"
            write_atomically(path, "".join(f"{line}\n" for line in side))
    return folder


def reduced(sources: Sequence[str], file: Path) -> list[int]:
    """Places of a reduced test set's lines in the whole one: sacreBLEU's wmt14 has 2,737 of 3,003.

    `file` is what `sacrebleu -t wmt14 -l en-de --echo src` writes.
    """
    places = {line: place for place, line in reversed(list(enumerate(sources)))}
    lines = list(read_lines(file))
    if not lines:
        raise UserError(f"{file} holds no line: give the sources of a reduced set")
    unknown = [n for n, line in enumerate(lines, 1) if line not in places]
    if unknown:
        raise UserError(
            f"{file}: line {unknown[0]} is not in the test set ({len(unknown)} are not): give the "
            "sources of a reduced set, as sacrebleu -t wmt14 -l en-de --echo src writes them"
        )
    return [places[line] for line in lines]


def score(run_dir: Path, pairs: Sequence[tuple[str, str]], language: str, part: list[int]) -> dict:
    """Choice -> its scores, on the whole set and, named so, on the part of it."""
    from transformer_jax.translator import Translator

    sources, references = zip(*pairs)
    found: dict[str, dict] = {}

    @functools.cache
    def loaded(checkpoint: str) -> tuple[Translator, float]:
        translator = Translator.load(run_dir, checkpoint)
        return translator, translator.perplexity(sources, references)

    for name, (checkpoint, search) in DECODING_SETTINGS.items():
        translator, perplexity = loaded(checkpoint)
        translations = translator.translate(sources, search, split_sentences="never")
        sets = {"": range(len(sources)), **({" on the reduced set": part} if part else {})}
        found[name] = {
            "checkpoint": translator.checkpoint,
            "perplexity": perplexity,
            "scores": {
                each.name + suffix: {"value": each.value, "signature": each.signature}
                for suffix, places in sets.items()
                for each in bleu_variants(
                    [translations[i] for i in places], [references[i] for i in places], language
                )
            },
        }
        paper = found[name]["scores"]["compound-split BLEU"]["value"]
        print(f"{name:18} compound-split BLEU {paper:6.2f}", flush=True)
    return found


def tables(found: dict, pair: str, size: str, is_full: bool) -> list[Table]:
    """Every score of every choice, and what each choice adds."""
    choices = list(found)
    names = list(found[choices[0]]["scores"])
    bleu = PAPER[pair, size]
    rows = [
        [name, bleu if is_full and name == "compound-split BLEU" else None]
        + [found[choice]["scores"][name]["value"] for choice in choices]
        + [found[choices[0]]["scores"][name]["signature"]]
        for name in names
    ]
    rows.append(
        ["perplexity a piece", None, *(found[choice]["perplexity"] for choice in choices), ""]
    )
    own = {name: found["as in the paper"]["scores"][name]["value"] for name in names}
    paper = own["compound-split BLEU"]
    adds = [
        [f"{name} -> as in the paper",
         paper - found[name]["scores"]["compound-split BLEU"]["value"]]
        for name in choices[1:]
    ]  # fmt: skip
    adds += [
        ["compounds whole -> split (Moses tokens)", paper - own["Moses-tokenized BLEU"]],
        ["sacreBLEU -> the paper's BLEU", paper - own["BLEU"]],
        ["cased -> lower-cased", own["compound-split BLEU, lower-cased"] - paper],
    ]
    if "BLEU on the reduced set" in own:
        adds.append(["sacreBLEU: the whole set -> the reduced one",
                     own["BLEU on the reduced set"] - own["BLEU"]])  # fmt: skip
    return [
        Table("Scores", ["score", "paper", *choices, "signature"], rows),
        Table("What each choice adds, BLEU", ["choice", "adds"], adds),
    ]


def entry(found: dict, arguments: argparse.Namespace, config: RunConfig, count: int) -> Entry:
    pair, size, steps = arguments.pair, arguments.size, config.train.steps
    paper = presets.run_config(size).train.steps
    test = "newstest2014" if arguments.full else "newstest2013"
    if not arguments.full:
        missing = "WMT14, newstest2014, the paper's sizes, and accelerators for them"
    elif steps < paper:
        missing = f"{paper - steps:,} of {paper:,} updates"
    else:
        missing = "the paper's seeds, which it does not tell"
    where = arguments.where.with_duration(training_summary(arguments.run_dir)["training_seconds"])
    scale = "full size" if arguments.full else "scaled down"
    return Entry(
        "table2_translation",
        f"Table 2, {pair} {size}, {scale}, {steps:,} updates, {count:,} sentences of {test}",
        where,
        tables(found, pair, size, arguments.full and steps == paper),
        missing + ("" if arguments.reduced else "; sacreBLEU's reduced set (--reduced)"),
        {"choices": found, "steps": steps, **training_summary(arguments.run_dir)},
    )


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/table2")
    parser.add_argument("--pair", choices=sorted(LOCAL_CORPORA), default="en-de")
    parser.add_argument("--size", choices=("base", "big"), default="base")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="not of --full")
    parser.add_argument("--steps", type=int, help="updates; default: the paper's, or 2,000")
    parser.add_argument("--reduced", type=Path, help="sources of sacreBLEU's wmt14, a line each")
    arguments = parser.parse_args(words)
    if arguments.steps is not None and arguments.steps < 1:
        raise UserError(f"--steps {arguments.steps} must be positive")
    if arguments.data_dir and not arguments.full:
        raise UserError(f"--data-dir {arguments.data_dir} is of --full: without it give --shared")
    if arguments.reduced and not arguments.reduced.is_file():  # read when all is translated
        raise UserError(f"--reduced {arguments.reduced}: no such file")
    scale = "full" if arguments.full else "small"
    run_dir = arguments.output / f"{arguments.pair}-{arguments.size}-{scale}"
    arguments.run_dir = named_before(run_dir, "small", "twin")
    return arguments


def main() -> None:
    arguments = parse()
    pair, size, steps = arguments.pair, arguments.size, arguments.steps
    if arguments.full:
        config = full(pair, size, arguments.data_dir)
        if steps is not None:
            config = replace(config, train=replace(config.train, steps=steps))
    else:
        text = write_text(arguments.output / f"text-{pair}", arguments.shared, pair)
        config = scaled_config(pair, size, text, STEPS if steps is None else steps)
    arguments.where = Provenance.here(
        f"python -m experiments.table2_translation --pair {pair} --size {size}"
        + (" --full" if arguments.full else "")
        + f" --steps {config.train.steps}"
    )
    train(config, arguments.run_dir)
    if arguments.full:
        pairs = list(dataset_splits(arguments.run_dir)["test"])
    else:
        test = TextFiles(*(str(text / f"test.{language}") for language in pair.split("-")))
        pairs = list(test)[:SCORED]
    part = reduced([source for source, _ in pairs], arguments.reduced) if arguments.reduced else []
    found = score(arguments.run_dir, pairs, pair.partition("-")[2], part)
    made = entry(found, arguments, config, len(pairs))
    name = f"table2-{arguments.run_dir.name}-{config.train.steps}"
    publish_result(name, made, arguments)


if __name__ == "__main__":
    run_program(main)
