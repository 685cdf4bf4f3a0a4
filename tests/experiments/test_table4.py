"""Table 4's program, its parsers that count, and its links within constituents."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import parsing_splits, table4_parsing
from experiments.constituents import best_head, count_links
from experiments.parsing_baselines import CountingParser
from tests.parsing.toy import write_treebank
from transformer_jax import presets
from transformer_jax.cli import main
from transformer_jax.data.builders import Grammar
from transformer_jax.data.grammar.corpus import SPLITS
from transformer_jax.errors import UserError
from transformer_jax.parsing import parse_brackets, read_trees


def test_counting_parser_makes_the_tree_that_it_says():
    trees = [
        parse_brackets("(TOP (S (NP (DT the) (NN dog)) (VP (VB sees) (NP (NN cats))) (. .)))"),
        parse_brackets("(TOP (S (NP (NN sees)) (VP (VB sees) (NP (DT the) (NN cat))) (. .)))"),
    ]
    parser = CountingParser(trees)
    # "sees" is VB in two of three places; constituents that end with a sentence are VP and NP.
    label = parser.parse(["a", "b"], "right-branching").children[0].children[1].label
    assert label in ("VP", "NP")
    found = parser.parse(["the", "cat", "sees", "."], "right-branching")
    assert str(found) == f"(TOP (S (DT the) ({label} (NN cat) ({label} (VB sees))) (. .)))"
    flat = parser.parse(["the", "unknown", "."], "flat")
    assert str(flat) == "(TOP (S (DT the) (NN unknown) (. .)))"


class Links:
    """A parser whose heads attend as they are told."""

    def __init__(self, weights):
        self._weights = weights

    def attention(self, sentence, target):
        count = len(sentence.split())

        source = [*(f"\u2581{word}" for word in sentence.split()), "</s>"]
        return SimpleNamespace(source=source, encoder=self._weights(count))


def test_links_are_counted_within_the_smallest_constituent():
    tree = parse_brackets("(TOP (S (NP (DT the) (NN dog)) (VP (VB sees) (NP (DT a) (NN cat)))))")

    def weights(count):
        """One head looks at the next word (the last at the one before it), one at the first."""
        following = np.eye(count + 1, k=1)
        following[count - 1] = np.eye(count + 1)[count - 2]
        first = np.zeros((count + 1, count + 1))
        first[:, 0], first[0, 1] = 1, 2
        return np.stack([following, first])[None]

    found = count_links(Links(weights), [tree, tree])
    # Of the five words only "dog" looks out of its NP; from "the", "dog" and "sees" the first
    # word is within, or the second one from the first itself.
    assert found.links == 10
    np.testing.assert_allclose(found.within, [[80.0, 40.0]])
    # The first head links four words to the next and one to that before it.
    right, left = 4 / 5, 1 / 5
    shares = [1.0, left / (left + right), right, right, left / left]
    np.testing.assert_allclose(found.by_distance[0, 0], 100 * np.mean(shares))
    assert best_head(found) == (0, int(np.argmax((found.within - found.by_distance)[0])))


def test_links_that_know_only_distances_have_nothing_beyond_them():
    rng = np.random.default_rng(0)
    import random

    from tests.parsing.toy import draw_tree

    trees = [draw_tree(random.Random(seed)) for seed in range(300)]

    def weights(count):
        """Distances are drawn, whatever the words are."""
        places = np.arange(count + 1)
        apart = places[None] - places[:, None]
        return (rng.random((1, 1, count + 1, count + 1)) ** 0.1) * np.exp(-np.abs(apart - 1))

    found = count_links(Links(weights), trees)
    assert abs(found.within - found.by_distance).max() < 3


@pytest.mark.slow
def test_table_4_from_end_to_end(tmp_path, monkeypatch, capsys):
    """On a toy treebank: every part, again from where it stopped, and the grammar's phrases."""
    bank = tmp_path / "bank"
    bank.mkdir()
    write_treebank(bank / "train.trees", 200, 0)
    write_treebank(bank / "val.trees", 30, 1)
    whole = presets.run_config

    def narrow(name):
        config = whole(name)
        model = replace(config.model, vocab_size=330, d_model=16, d_ff=32, num_layers=1)
        return replace(config, model=model, data=replace(config.data, max_batch_shapes=1))

    [device, *_] = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: [device])  # a user's CPU is one device
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(table4_parsing.presets, "run_config", narrow)
    monkeypatch.setattr(parsing_splits, "SCORED", 10)
    monkeypatch.setattr(parsing_splits, "CHOSEN_BY", 5)
    monkeypatch.setattr(table4_parsing, "BEAMS", (2,))
    output = tmp_path / "output"

    def run(*words):
        arguments = ["table4_parsing", "--output", str(output), "--steps", "3", *words]
        monkeypatch.setattr("sys.argv", arguments)
        table4_parsing.main()

    run("--treebank", str(bank))
    entry = json.loads((output / "table4.json").read_text())
    table, links = entry["tables"]
    names = [row[0] for row in table["rows"]]
    assert names == [
        "right-branching, most frequent tags", "flat, most frequent tags",
        "attention to all words, beam 2", "attention to all words, without the constraint, beam 2",
        "attention to the next word, beam 2",
        "attention to the next word, without the constraint, beam 2", "in order, beam 2",
        "a quarter, beam 4", "a quarter, twice as long, beam 4", "self-trained, beam 4",
    ]  # fmt: skip
    formed = {row[0]: row[1] for row in table["rows"]}
    for name in ("attention to all words", "attention to the next word", "in order"):
        assert formed[f"{name}, beam 2"] == 100
    assert len(links["rows"]) == 4 and (output / "constituents.svg").exists()
    # The trees that are scored chose nothing.
    val = list(read_trees(bank / "val.trees"))
    chosen = list(read_trees(output / "chosen-by.trees"))
    others = [tree for place, tree in enumerate(val) if place % 3]  # every third is scored
    assert chosen == others[::4]
    assert len(list(read_trees(output / "parsed.trees"))) == 150
    run("--treebank", str(bank), "--only", "baselines")  # again, of what is there
    entry = json.loads((output / "table4-baselines.json").read_text())
    assert entry["tables"][0]["rows"] == table["rows"][:2]
    monkeypatch.setattr(Grammar, "SIZES", {"30k": 200})
    monkeypatch.setattr(Grammar, "HELD_OUT", 12)
    run("--grammar")
    scores, links = json.loads((output / "table4-grammar.json").read_text())["tables"]
    assert [row[0] for row in scores["rows"]] == list(SPLITS[1:])
    assert {path.name for path in output.glob("phrases*.svg")} == {
        "phrases.svg", "phrases-links.svg", "phrases-tree.svg",
    }  # fmt: skip
    # Its splits are trees for `evaluate`, too.
    main(["evaluate", "--run-dir", str(output / "grammar"), "--split", "test", "--beam-size", "4"])
    [shown] = re.findall("^F1 = ([0-9.]+)", capsys.readouterr().out, re.MULTILINE)
    assert float(shown) == pytest.approx(scores["rows"][1][1], abs=0.06)


@pytest.mark.slow
def test_full_size_program_trains_on_sections(tmp_path, monkeypatch):
    """The paper's path over sections of a folder and parsed trees, with the sizes of a toy."""
    for number in range(2, 24):
        (tmp_path / f"{number:02}").mkdir()
        write_treebank(tmp_path / f"{number:02}" / "wsj_0001.mrg", 10, seed=number)
    write_treebank(tmp_path / "parsed.trees", 50, seed=0)
    full = table4_parsing.full

    def small(arguments):
        config = full(arguments)
        model = replace(config.model, vocab_size=330, d_model=16, d_ff=32, num_layers=1)
        data = replace(config.data, batch_tokens=512, max_batch_shapes=1)
        return replace(config, model=model, data=data)

    monkeypatch.setattr(table4_parsing, "full", small)
    words = ["--full", "--treebank", str(tmp_path), "--steps", "2", "--output", str(tmp_path)]
    words += ["--second", str(tmp_path / "parsed.trees"), "--second-ratio", "0.5"]
    monkeypatch.setattr("sys.argv", ["table4_parsing", *words])
    table4_parsing.main()
    entry = json.loads((tmp_path / "table4-full-semi-supervised-paper.json").read_text())
    [table] = entry["tables"]
    assert [row[0] for row in table["rows"]] == [
        "the paper", "section 22, beam 21", "section 23, beam 21",
    ]  # fmt: skip
    assert table["rows"][0][1] == 92.7
    assert all(0 <= row[1] <= 100 for row in table["rows"][1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give --treebank FOLDER, or --grammar"),
        ("--full --grammar", "--full is of the Wall Street Journal"),
        ("--grammar --only orders", "--only orders is a part of the scaled-down experiment"),
        ("--grammar --second a", "--second a is of --full"),
        ("--grammar --recipe t2t", "--recipe t2t is of --full"),
        ("--treebank .", "there is no train.trees in it"),
        ("--treebank . --full", "there is no 02 in it"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(monkeypatch, words, message):
    monkeypatch.setattr("sys.argv", ["table4_parsing", *words.split()])
    with pytest.raises(UserError, match=message):
        table4_parsing.parse_arguments()


def test_full_is_the_paper(tmp_path, monkeypatch):
    arguments = table4_parsing.parse_arguments
    for section in ("02", "21", "22", "23"):
        (tmp_path / section).mkdir()
    monkeypatch.setattr("sys.argv", ["x", "--full", "--treebank", str(tmp_path)])
    config = table4_parsing.full(arguments())
    model = config.model
    assert (model.num_layers, model.d_model, model.vocab_size) == (4, 1024, 16_000)
    assert config.data.treebank == (str(tmp_path / "02-21"), str(tmp_path / "22"))
    monkeypatch.setattr(
        "sys.argv",
        ["x", "--full", "--treebank", str(tmp_path), "--second", "parsed", "--recipe", "t2t"],
    )
    config = table4_parsing.full(arguments())
    assert (config.model.vocab_size, config.model.dropout) == (32_000, 0.2)
    assert (config.optimizer.lr_factor, config.optimizer.warmup_steps) == (5.0, 16_000)
    assert config.data.mixed_treebank == "parsed"
