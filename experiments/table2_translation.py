"""Table 2: translation of news, en-de and en-fr, base and big, and what each choice adds.

    python -m experiments.table2_translation --pair en-de --size base --full      WMT14
    python -m experiments.table2_translation --pair en-de --shared ../shared/data the twin

Paper    BLEU 27.3 (base) and 28.4 (big) for en-de, 38.1 and 41.8 (the text: 41.0) for en-fr.
Whole    wmt14_translate; 37,000 pieces for en-de and 32,000 for en-fr, shared; batches of 25,000
         tokens a side; equation 3; the average of the last 5 (base) or 20 (big) checkpoints, 1,500
         or 600 updates apart, which is about ten minutes; beam 4, alpha 0.6; newstest2014.
Twin     the same path with preset `tiny` on the news and sentences at hand; scored on newstest2013,
         which is all that is at hand of a test set. What it shows is that the path runs, and which
         way each choice moves a score.

Each score has its signature, and the ledger tells what averaging, the length penalty, the beam, the
splitting of compounds and the test set add. Run it again to go on where it stopped.
"""

import argparse
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.ledger import RESULTS, Entry, Table, Where, record
from transformer_jax import presets
from transformer_jax.cli import at_a_terminal
from transformer_jax.config import RunConfig
from transformer_jax.data.text import TextFiles, read_lines
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import every_bleu
from transformer_jax.search import Search

# (pair, size) -> BLEU and training FLOPs in the paper; en-fr big as the table has it.
PAPER = {
    ("en-de", "base"): (27.3, 3.3e18),
    ("en-de", "big"): (28.4, 2.3e19),
    ("en-fr", "base"): (38.1, 3.3e18),
    ("en-fr", "big"): (41.8, 2.3e19),
}
# Section 5.1: byte pairs for en-de, word pieces for en-fr, of both languages together.
VOCABULARY = {"en-de": 37_000, "en-fr": 32_000}
BEAM = Search(beam_size=4, alpha=0.6)
# What is translated: name -> (checkpoint, search). Each differs from the first by one choice.
CHOICES = {
    "as in the paper": ("averaged", BEAM),
    "no averaging": ("last", BEAM),
    "no length penalty": ("averaged", replace(BEAM, alpha=0.0)),
    "greedy": ("averaged", Search(method="greedy")),
}
# The twin: pieces, updates, tokens a batch, sentences to score.
PIECES, STEPS, BATCH_TOKENS, SCORED = 8000, 2000, 2048, 500
NEWS = ("news-test2008", *(f"newstest20{y:02}" for y in (9, 10, 11, 12, 15, 16, 17, 18, 19, 20)))


@dataclass(frozen=True)
class Corpus:
    """Files that the twin reads: (folder, stem or both names) of training text, and a test set."""

    train: Sequence[tuple[str, str]]
    test: tuple[str, str]


AT_HAND = {
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
    config = presets.recipe(size)
    dropout = 0.1 if (pair, size) == ("en-fr", "big") else config.model.dropout
    return replace(
        config,
        model=replace(config.model, vocab_size=VOCABULARY[pair], dropout=dropout),
        data=replace(config.data, dataset="wmt14_translate", direction=pair, data_dir=data_dir),
    )


def twin(pair: str, size: str, text: Path, steps: int) -> RunConfig:
    """The same path, small: big is tiny with twice the width, and averages more checkpoints."""
    config = presets.recipe("tiny")
    wide: dict[str, Any] = {
        "d_model": 256,
        "d_ff": 512,
        "num_heads": 8,
        "d_k": 32,
        "d_v": 32,
        "dropout": 0.3,
    }
    average = presets.recipe(size).train.average_last
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
    corpus = AT_HAND[pair]
    for name, files in (("train", corpus.train), ("test", [corpus.test])):
        paths = [folder / f"{name}.{language}" for language in pair.split("-")]
        if all(path.exists() for path in paths):
            continue
        pairs = [p for each in files for p in _read(shared / each[0], shared / each[1]) if all(p)]
        for path, side in zip(paths, zip(*pairs)):
            path.write_text("".join(f"{line}\n" for line in side), encoding="utf-8")
    return folder


def _read(*paths: Path) -> Iterator[tuple[str, str]]:
    if paths[0].suffix != ".gz":
        yield from TextFiles(str(paths[0]), str(paths[1]))
        return
    with (
        gzip.open(paths[0], "rt", newline="\n") as left,
        gzip.open(paths[1], "rt", newline="\n") as right,
    ):
        for one, other in zip(left, right, strict=True):
            yield one.strip(), other.strip()


def reduced(sources: Sequence[str], file: Path) -> list[int]:
    """Places of a reduced test set's lines in the whole one: sacreBLEU's wmt14 has 2,737 of 3,003.

    `file` is what `sacrebleu -t wmt14 -l en-de --echo src` writes.
    """
    places = {line: place for place, line in reversed(list(enumerate(sources)))}
    lines = list(read_lines(file))
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
    for name, (checkpoint, search) in CHOICES.items():
        translator = Translator.load(run_dir, checkpoint)
        translations = translator.translate(sources, search)
        sets = {"": range(len(sources)), **({" on the reduced set": part} if part else {})}
        found[name] = {
            "checkpoint": translator.checkpoint,
            "perplexity": translator.perplexity(sources, references),
            "scores": {
                each.name + suffix: {"value": each.value, "signature": each.signature}
                for suffix, places in sets.items()
                for each in every_bleu(
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
    bleu, _ = PAPER[pair, size]
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


def speed(run_dir: Path) -> dict:
    """Tokens a second and the curve of the run."""
    from transformer_jax.run import Run

    records = {
        name: [json.loads(line) for line in (run_dir / name).read_text("utf-8").splitlines()]
        for name in ("timings.jsonl", "metrics.jsonl")
    }
    rates = sorted(
        r["tokens_per_second"] for r in records["timings.jsonl"] if "tokens_per_second" in r
    )
    return {
        "target tokens a second, median": rates[len(rates) // 2] if rates else None,
        "steps": Run.open(run_dir).config.train.steps,
        "curve": [
            {k: r[k] for k in ("step", "validation_loss", "validation_perplexity")}
            for r in records["metrics.jsonl"]
            if "validation_loss" in r
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=sorted(AT_HAND), default="en-de")
    parser.add_argument("--size", choices=("base", "big"), default="base")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, on WMT14")
    parser.add_argument("--data-dir", help="archives of WMT14; default: download")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="of the twin")
    parser.add_argument("--steps", type=int, help="updates (default: the paper's, or 2,000)")
    parser.add_argument("--reduced", type=Path, help="sources of sacreBLEU's wmt14, a line each")
    parser.add_argument("--output", type=Path, default=Path("runs/table2"), help="folder to write")
    parser.add_argument("--ledger", type=Path, default=RESULTS, help="folder of the result")
    arguments = parser.parse_args()
    pair, size, start = arguments.pair, arguments.size, time.perf_counter()

    from transformer_jax.job import train
    from transformer_jax.testset import dataset_splits

    folder = arguments.output / f"{pair}-{size}"
    if arguments.full:
        config = full(pair, size, arguments.data_dir)
        if arguments.steps is not None:
            config = replace(config, train=replace(config.train, steps=arguments.steps))
        train(config, folder)
        pairs = list(dataset_splits(folder)["test"])
    else:
        text = write_text(arguments.output / f"text-{pair}", arguments.shared, pair)
        config = twin(pair, size, text, arguments.steps or STEPS)
        train(config, folder)
        pairs = list(TextFiles(*(str(text / f"test.{language}") for language in pair.split("-"))))[
            :SCORED
        ]
    part = reduced([source for source, _ in pairs], arguments.reduced) if arguments.reduced else []
    found = score(folder, pairs, pair.partition("-")[2], part)
    scale = "full" if arguments.full else "twin"
    command = f"python -m experiments.table2_translation --pair {pair} --size {size}" + (
        " --full" if arguments.full else f" --steps {config.train.steps}"
    )
    missing = (
        "nothing but the seeds, which the paper does not tell"
        if arguments.full
        else "WMT14 and newstest2014 themselves, and an accelerator (base: 12 hours on 8 P100)"
    )
    entry = Entry(
        "table2_translation",
        f"Table 2, {pair} {size} ({'full size' if arguments.full else 'twin'})",
        Where.here(command, time.perf_counter() - start),
        tables(found, pair, size, arguments.full),
        missing,
        {"choices": found, **speed(folder)},
    )
    for table in entry.tables:
        print(f"\n{table.markdown()}")
    print(record(f"table2-{pair}-{size}-{scale}", entry, arguments.ledger))


if __name__ == "__main__":
    with at_a_terminal():
        main()
