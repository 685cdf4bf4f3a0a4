"""Table 4: constituency parsing, with what each choice of decoding and linearisation gives.

    python -m experiments.table4_parsing --treebank ../shared/data/treebank-craft
    python -m experiments.table4_parsing --grammar
    python -m experiments.table4_parsing --full --treebank WSJ

Paper    F1 on section 23 of the Wall Street Journal: 91.3 with its sections 02-21 alone, 92.7 with
         17 million sentences that other parsers have parsed. 4 layers, d_model 1024, 16K or 32K
         pieces, beam 21, alpha 0.3, at most 300 symbols more than the sentence has pieces.
--full   the same, of a folder with sections 02 to 23; --second adds parsed trees, --second-ratio of
         them for each gold tree; --recipe t2t is tensor2tensor's dropout and rate.
Without  a small model on the biomedical articles of CRAFT (train.trees and val.trees of a folder),
         scored on 500 fixed sentences of val beside parsers that count: with the paper's attention
         to all words and with attention to the word that comes next, with beams of 1, 4 and 21,
         with the grammar's constraint and without, in both orders of traversal, and with
         self-training: a quarter of the trees, and what its parser makes of the others.
--grammar  the phrases of the embedded corpus.

Run it again to resume where it stopped; --only names a part.
"""

import argparse
import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.constituents import (
    best_head,
    count_links,
    draw_counts,
    draw_links,
    links_table,
)
from experiments.figures1_2_architecture import save
from experiments.ledger import Cell, Entry, Provenance, Table
from experiments.parsing_baselines import CountingParser
from experiments.parsing_splits import split_validation, write_trees
from experiments.program import check_positive, make_parser, publish_result
from experiments.runs import training_summary
from transformer_jax import presets
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import Score
from transformer_jax.parser import Parser
from transformer_jax.parsing import Tree, read_trees, words
from transformer_jax.parsing.scores import score_parses
from transformer_jax.run.splits import dataset_splits
from transformer_jax.run.train import train
from transformer_jax.tasks import ParsingTask
from transformer_jax.terminal import run_program
from transformer_jax.visualization.tree import draw_tree

PAPER = {"WSJ only": 91.3, "semi-supervised": 92.7}
BEAMS = (1, 4, 21)
# Options of --full alone, and their defaults.
OF_FULL: dict[str, Any] = {"recipe": "paper", "second": None, "second_ratio": 1.0}
PARTS = ("baselines", "all-words", "next-word", "orders", "self-training", "attention")
ORDERS = {"tensor2tensor": "parsing", "in-order": "parsing-in-order"}
# Longest sentence whose links are counted, in words.
LONGEST_LINKED = 40
STEPS, GRAMMAR_STEPS = 15_000, 3_000
# Where attention must find the words, the preset's rate is too high.
ALL_WORDS_LR_FACTOR = 0.5
GRAMMAR_PIECES = 2000
# Self-training: the first tree of so many is gold.
EVERY = 4
COLUMNS = ("F1", "precision", "recall", "exact match", "tagging accuracy", "F1, up to 40 words")


def full(arguments: argparse.Namespace) -> RunConfig:
    """The paper's run; what it does not tell is that of base, or tensor2tensor's."""
    bank = arguments.treebank
    config = presets.run_config("parsing")
    pieces = 32_000 if arguments.second else 16_000
    model = replace(
        presets.base(pieces), num_layers=4, d_model=1024, target_vocab_size=512,
        tied_embeddings="decoder",
    )  # fmt: skip
    optimizer = presets.run_config("base").optimizer
    if arguments.recipe == "t2t":
        model = replace(presets.t2t(model), dropout=0.2, attention_dropout=0.2)
        optimizer = replace(optimizer, lr_factor=5.0, warmup_steps=16_000)
    data = replace(
        config.data,
        treebank=(str(bank / "02-21"), str(bank / "22")),
        mixed_treebank=arguments.second,
        mixed_ratio=arguments.second_ratio if arguments.second else 1.0,
        batch_tokens=25_000,
    )
    trained = replace(presets.run_config("base").train, steps=100_000, best_metric="f1")
    return RunConfig(model, optimizer, data, trained)


def scaled(arguments: argparse.Namespace, order: str, trees: Path, steps: int) -> RunConfig:
    """The same path, small: preset `parsing` on some trees."""
    chosen_by = arguments.output / "chosen-by.trees"
    text = {"task": ORDERS[order], "treebank": (str(trees), str(chosen_by))}
    return with_text(text, steps)


def over_all_words(config: RunConfig) -> RunConfig:
    """The paper's attention to the source, with a rate that suits it."""
    return replace(
        config,
        model=replace(config.model, cross_attention_radius=None),
        optimizer=replace(config.optimizer, lr_factor=ALL_WORDS_LR_FACTOR),
    )


def grammar_config(steps: int, dataset: str = "grammar/30k") -> RunConfig:
    """Preset `parsing` on the phrases of the embedded corpus, which has few words."""
    config = with_text({"dataset": dataset, "max_length": 64}, steps)
    return replace(config, model=replace(config.model, vocab_size=GRAMMAR_PIECES))


def with_text(text: dict[str, Any], steps: int) -> RunConfig:
    config = presets.run_config("parsing")
    return replace(
        config,
        data=replace(config.data, **text),
        train=replace(
            config.train, steps=steps, evaluate_every=max(steps // 10, 1),
            checkpoint_every=max(steps // 30, 1),
        ),
    )  # fmt: skip


def values(scores: Sequence[Score]) -> list[Cell]:
    found = {score.name: score.value for score in scores}
    return [found[name] for name in COLUMNS]


def baselines(bank: Path, gold: Sequence[Tree]) -> list[list[Cell]]:
    counted = CountingParser(read_trees(bank / "train.trees"))
    rows: list[list[Cell]] = []
    for shape in ("right-branching", "flat"):
        parses = [counted.parse(words(tree), shape) for tree in gold]
        rows.append(
            [f"{shape}, most frequent tags", None, *values(score_parses(gold, parses)), None]
        )
    return rows


def without_constraint(parser: Parser) -> Parser:
    """The same model, whose searches may write anything."""
    free = ParsingTask(parser.task.order, constrained=False)
    return Parser(
        parser.model,
        parser.params,
        parser.vocabularies,
        parser.checkpoint,
        parser.max_length,
        task=free,
    )


def decode(
    parser: Parser, gold: Sequence[Tree], name: str, beams: Sequence[int]
) -> list[list[Cell]]:
    """Rows of a parser with each beam; the first call of each compiles, the second is timed."""
    sentences = [words(tree) for tree in gold]
    rows: list[list[Cell]] = []
    for beam in beams:
        for _ in range(2):
            start = time.perf_counter()
            parses = parser.parse(sentences, too_long="flat", beam_size=beam)
            seconds = time.perf_counter() - start
        formed = 100 * statistics.mean(parse is not None for parse in parses)
        rows.append([f"{name}, beam {beam}", formed, *values(score_parses(gold, parses)), seconds])
        print(f"{rows[-1][0]}: F1 {rows[-1][2]:.1f}", flush=True)
    return rows


def self_train(
    arguments: argparse.Namespace, gold: Sequence[Tree]
) -> tuple[list[list[Cell]], list[Path]]:
    """A quarter of the trees; and with the sentences of the others as its parser parses them."""
    output = arguments.output
    trees = list(read_trees(arguments.treebank / "train.trees"))
    quarter = write_trees(trees[::EVERY], output / "quarter.trees")
    steps = arguments.steps // 3
    config = scaled(arguments, "tensor2tensor", quarter, steps)
    train(config, output / "quarter")
    parsed = output / "parsed.trees"
    if not parsed.exists():
        others = [words(tree) for place, tree in enumerate(trees) if place % EVERY]
        found = Parser.load(output / "quarter").parse(others, too_long="flat", beam_size=1)
        write_trees([tree for tree in found if tree is not None], parsed)
    # Each gold tree as often as in the other run, and one parsed tree beside it.
    mixed = replace(
        config,
        data=replace(config.data, mixed_treebank=str(parsed)),
        train=replace(config.train, steps=2 * steps),
    )
    train(mixed, output / "self-trained")
    longer = replace(config, train=mixed.train)
    train(longer, output / "quarter-longer")
    rows: list[list[Cell]] = []
    folders = [output / name for name in ("quarter", "quarter-longer", "self-trained")]
    for folder, name in zip(folders, ("a quarter", "a quarter, twice as long", "self-trained")):
        rows += decode(Parser.load(folder), gold, name, (4,))
    return rows, folders


def find(arguments: argparse.Namespace) -> tuple[list[Table], list[Path]]:
    """Train and score what --only names, or all of it: tables and run folders."""
    output, bank = arguments.output, arguments.treebank
    parts = PARTS if arguments.only is None else (arguments.only,)
    gold = split_validation(bank, output)
    rows: list[list[Cell]] = []
    tables: list[Table] = []
    folders: list[Path] = []

    def trained(name: str, config: RunConfig) -> Parser:
        folders.append(output / name)
        train(config, folders[-1])
        return Parser.load(folders[-1])

    def free_and_constrained(parser: Parser, name: str) -> list[list[Cell]]:
        free = without_constraint(parser)
        constrained = decode(parser, gold, name, BEAMS)
        return constrained + decode(free, gold, f"{name}, without the constraint", BEAMS)

    if "baselines" in parts:
        rows += baselines(bank, gold)
    usual, in_order = (
        scaled(arguments, order, bank / "train.trees", arguments.steps) for order in ORDERS
    )
    if "all-words" in parts:
        name = "attention to all words"
        rows += free_and_constrained(trained("all-words", over_all_words(usual)), name)
    if {"next-word", "attention"} & {*parts}:
        parser = trained("next-word", usual)
        if "next-word" in parts:
            rows += free_and_constrained(parser, "attention to the next word")
        if "attention" in parts:
            tables.append(attention(parser, gold, output))
    if "orders" in parts:
        rows += decode(trained("in-order", in_order), gold, "in order", BEAMS)
    if "self-training" in parts:
        found, runs = self_train(arguments, gold)
        rows += found
        folders += runs
    if rows:
        title = f"Parsers on {len(gold)} fixed sentences of val, {bank.name}"
        columns = ["parser", "well-formed, %", *COLUMNS, "seconds"]
        tables.insert(0, Table(title, columns, rows, 1))
    return tables, folders


def attention(parser: Parser, gold: Sequence[Tree], output: Path) -> Table:
    """Count links of the encoder's heads, and draw them."""
    found = count_links(parser, [tree for tree in gold if len(words(tree)) <= LONGEST_LINKED])
    save({"constituents": draw_counts(found)}, output)
    return links_table(found)


def grammar(arguments: argparse.Namespace) -> tuple[list[Table], list[Path]]:
    """The phrases of the embedded corpus, on all its held-out splits."""
    folder = arguments.output / "grammar"
    train(grammar_config(arguments.steps), folder)
    parser = Parser.load(folder)
    rows: list[list[Cell]] = []
    splits = {name: list(split.trees()) for name, split in dataset_splits(folder).items()}
    for name, trees in splits.items():
        if name != "train":
            found = parser.evaluate_trees(trees, beam_size=4)
            rows.append([name, *values(found.scores)])
    links = count_links(parser, splits["test"])
    shown = next(tree for tree in splits["test"] if 9 <= len(words(tree)) <= 12)
    save(
        {
            "phrases": draw_counts(links),
            "phrases-links": draw_links(parser, shown, *best_head(links)),
            "phrases-tree": draw_tree(shown),
        },
        arguments.output,
    )
    title = "Phrases of the embedded corpus, beam 4 (words have no tags)"
    tables = [Table(title, ["split", *COLUMNS], rows, 1), links_table(links)]
    return tables, [folder]


def whole(arguments: argparse.Namespace) -> tuple[list[Table], list[Path]]:
    """Sections 02-21, 22 and 23."""
    config = full(arguments)
    if arguments.steps is not None:
        config = replace(config, train=replace(config.train, steps=arguments.steps))
    kind = "semi-supervised" if arguments.second else "WSJ only"
    folder = arguments.output / f"full-{kind.replace(' ', '-')}-{arguments.recipe}"
    train(config, folder)
    parser = Parser.load(folder)
    rows: list[list[Cell]] = [["the paper", PAPER[kind], *[None] * (len(COLUMNS) - 1)]]
    for section in ("22", "23"):
        found = parser.evaluate_trees(read_trees(arguments.treebank / section))
        rows.append([f"section {section}, beam 21", *values(found.scores)])
    return [Table(f"Wall Street Journal, {kind}", ["", *COLUMNS], rows, 1)], [folder]


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/table4")
    parser.add_argument("--treebank", type=Path, help="folder of trees")
    parser.add_argument("--grammar", action="store_true", help="phrases of the embedded corpus")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, on WSJ")
    parser.add_argument(
        "--recipe", choices=("paper", "t2t"), default=OF_FULL["recipe"], help="of --full"
    )
    parser.add_argument("--second", help="parsed trees to mix in, of --full")
    parser.add_argument(
        "--second-ratio", type=float, default=OF_FULL["second_ratio"], help="for each gold tree"
    )
    parser.add_argument("--steps", type=int, help="updates of each run")
    parser.add_argument("--only", choices=PARTS, help="a part of the scaled-down experiment")
    arguments = parser.parse_args()
    check_positive(arguments, "steps")
    if arguments.grammar == (arguments.treebank is not None):
        raise UserError("give --treebank FOLDER, or --grammar for the embedded corpus")
    if arguments.grammar and arguments.full:
        raise UserError("--full is of the Wall Street Journal: give --treebank WSJ, not --grammar")
    wanted = ["02", "21", "22", "23"] if arguments.full else ["train.trees", "val.trees"]
    for name in wanted if arguments.treebank else []:
        if not (arguments.treebank / name).exists():
            raise UserError(
                f"--treebank {arguments.treebank}: there is no {name} in it: give the sections of "
                "the Wall Street Journal with --full, or a folder of train.trees and val.trees"
            )
    for name, default in OF_FULL.items():
        if getattr(arguments, name) != default and not arguments.full:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is of --full")
    if arguments.second_ratio != OF_FULL["second_ratio"] and arguments.second is None:
        raise UserError(f"--second-ratio {arguments.second_ratio} needs --second TREES")
    if arguments.only and (arguments.full or arguments.grammar):
        raise UserError(f"--only {arguments.only} is a part of the scaled-down experiment")
    return arguments


def _given(arguments: argparse.Namespace) -> str:
    """The options that decide what is found, as a command has them."""
    options = ""
    for name in ("treebank", "grammar", "full", *OF_FULL, "steps", "only"):
        value = getattr(arguments, name)
        if value not in (None, False, OF_FULL.get(name)):
            shown = "" if value is True else f" {shlex.quote(str(value))}"
            options += f" --{name.replace('_', '-')}{shown}"
    return options


def main() -> None:
    arguments = parse_arguments()
    if not arguments.full and arguments.steps is None:
        arguments.steps = GRAMMAR_STEPS if arguments.grammar else STEPS
    how = whole if arguments.full else grammar if arguments.grammar else find
    where = Provenance.here(f"python -m experiments.table4_parsing{_given(arguments)}")
    tables, folders = how(arguments)
    if arguments.full:
        name = f"table4-{folders[0].name}"
    else:
        part = "grammar" if arguments.grammar else arguments.only
        name = f"table4-{part}" if part else "table4"
    summaries = {folder.name: training_summary(folder) for folder in folders}
    seconds = sum(each["training_seconds"] for each in summaries.values())
    entry = Entry(
        "table4_parsing",
        f"Table 4, {'full size' if arguments.full else 'scaled down'}: constituency parsing",
        where.with_duration(seconds),
        tables,
        "what the paper does not tell: its dropout, rate and updates"
        if arguments.full
        else "the Wall Street Journal, the paper's sizes, and accelerators for them",
        {"runs": summaries},
    )
    publish_result(name, entry, arguments)


if __name__ == "__main__":
    run_program(main)
