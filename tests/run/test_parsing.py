"""A treebank goes through the job, the parser and the commands."""

import shutil
from dataclasses import replace

import pytest

from tests.parsing.toy import parsing_configuration, write_treebank
from tests.small_job import read_jsonl
from tests.test_readme import run_blocks
from transformer_jax import DataConfig, ModelConfig, Parser, Transformer
from transformer_jax.cli import main
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.manifest import Manifest
from transformer_jax.data.preparation import prepare
from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.errors import UserError
from transformer_jax.parsing import parse_brackets, read_trees, words
from transformer_jax.parsing.scores import score_parses
from transformer_jax.run.folder import Run
from transformer_jax.run.train import train
from transformer_jax.tasks import task_of
from transformer_jax.weights import export_model


@pytest.fixture(scope="module")
def parsing_run(tmp_path_factory, _cache):
    folder = tmp_path_factory.mktemp("parsing")
    config = parsing_configuration(folder, steps=160, evaluate_every=80, checkpoint_every=80)
    config = replace(
        config,
        model=replace(config.model, cross_attention_radius=0),
        optimizer=replace(config.optimizer, warmup_steps=40),
    )
    return train(config, folder / "run", progress=False)


@pytest.fixture(scope="module")
def parser(parsing_run):
    return Parser.load(parsing_run.folder, "last")


def test_parsing_is_learned_and_scored(parsing_run, parser, tmp_path):
    records = read_jsonl(parsing_run.folder / "metrics.jsonl")
    f1 = [record["validation_f1"] for record in records if "validation_f1" in record]
    assert f1[-1] > 70 > f1[0] or f1[-1] > 90
    assert parsing_run.config.model.target_vocab_size == 4 + 2 * 4 + 5
    gold = write_treebank(tmp_path / "test", 20, seed=7)
    found = parser.evaluate_trees(gold, beam_size=1)
    parses = [parse_brackets(line) for line in found.translations]
    assert [str(score) for score in found.scores] == [str(s) for s in score_parses(gold, parses)]
    assert found.scores[0].name == "F1" and found.scores[0].value > 70
    assert [words(parse) for parse in parses] == [words(tree) for tree in gold]


def test_validation_counts_what_the_parser_writes(parsing_run, parser):
    """The metric that training recorded is the F1 of the trees that a parser writes."""
    gold = list(read_trees(parsing_run.config.data.treebank[1]))
    found = parser.evaluate_trees(gold, method="greedy")
    records = read_jsonl(parsing_run.folder / "metrics.jsonl")
    recorded = [record for record in records if "validation_f1" in record][-1]
    assert found.scores[0].value == pytest.approx(recorded["validation_f1"])


def test_parser_takes_any_words(parser):
    sentences = [
        "the dog sees a cat .",
        "",
        "f(x) = ( y ) \u2581 漢字",
        ["a", "list", "of", "words"],
        " \u200b ",
        "dog",
    ]
    trees = parser.parse(sentences, beam_size=3)
    assert [tree is None for tree in trees] == [False, True, False, False, True, False]
    assert words(trees[0]) == ["the", "dog", "sees", "a", "cat", "."]
    assert words(trees[2]) == ["f-LRB-x-RRB-", "=", "-LRB-", "y", "-RRB-", "\u2581", "漢字"]
    assert words(trees[3]) == ["a", "list", "of", "words"]
    # A sentence's tree does not depend on the others.
    assert parser.parse([sentences[0]], beam_size=3) == trees[:1]
    with pytest.raises(UserError, match="sentence 1: 'a b' is not one word"):
        parser.parse([["a b"]])
    with pytest.raises(TypeError, match="one string"):
        parser.parse("the dog")


def test_long_sentences_are_refused_or_flat(parser):
    long = "the dog " * 40
    with pytest.raises(
        UserError, match=r"sentence 7 has 80 pieces.* at most 47: split it, or give"
    ):
        parser.parse(["the dog sees", long], first=5)
    [short, flat] = parser.parse(["the dog sees", long], too_long="flat", beam_size=1)
    assert str(flat).startswith("(TOP (XX the) (XX dog) (XX the)") and words(flat) == long.split()
    assert short is not None and words(short) == ["the", "dog", "sees"]
    with pytest.raises(UserError, match="too_long 'cut'"):
        parser.parse(["a"], too_long="cut")


def test_parse_command_writes_a_tree_for_each_line(command, parsing_run, parser, tmp_path):
    (tmp_path / "in").write_text("the dog sees a cat .\n\na cat finds the house\n")
    run = parsing_run.folder
    options = ["--run-dir", run, "--checkpoint", "last", "--beam-size", 2]
    shown = command("parse", "--input", "in", *options).split("\n")
    trees = parser.parse((tmp_path / "in").read_text().splitlines(), beam_size=2)
    assert shown == ["" if tree is None else str(tree) for tree in trees] + [""]
    given = ["--format", "indented", "--output", "out", "--draw", "pictures"]
    assert command("parse", "--input", "in", *options, *given) == ""
    first = (tmp_path / "out").read_text().split("\n\n")[0]
    assert parse_brackets(first) == trees[0] and "\n  (S" in first
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["1.svg", "3.svg"]


def test_evaluate_command_scores_trees(command, parsing_run, parser, tmp_path):
    gold = write_treebank(tmp_path / "test.trees", 5, seed=9)
    options = ["--run-dir", parsing_run.folder, "--checkpoint", "last"]
    shown = command("evaluate", "--trees", "test.trees", "--output", "out", *options)
    # The search is the paper's where none is asked for.
    found = parser.evaluate_trees(gold, beam_size=21, alpha=0.3)
    assert shown == f"{found}\n"
    assert (tmp_path / "out").read_text().splitlines() == found.translations
    assert "F1 = " in shown and "prm:COLLINS" in shown


def test_parse_needs_a_model_for_parsing(uninterrupted_run):
    with pytest.raises(SystemExit, match="was not trained for parsing"):
        main(["parse", "--run-dir", str(uninterrupted_run[2].folder)])
    with pytest.raises(UserError, match="not trained for parsing"):
        Parser.load(uninterrupted_run[2].folder)


def test_page_on_parsing_runs(parsing_run, capsys, tmp_path):
    shutil.copytree(parsing_run.folder, tmp_path / "runs" / "parser")
    count, names = run_blocks("docs/parsing.md")
    assert count == 1 and words(names["tree"]) == ["The", "dog", "barks", "."]
    assert capsys.readouterr().out.startswith("(TOP (")


def test_a_changed_treebank_is_refused(parsing_run, tmp_path):
    folder = shutil.copytree(parsing_run.folder, tmp_path / "run")
    bank = tmp_path / "train.trees"
    write_treebank(bank, 300, seed=5)
    config = Run.open(folder).config
    other = replace(config.data, treebank=(str(bank), config.data.treebank[1]))
    with pytest.raises(UserError, match=r"prepared from another text than .*train.trees"):
        train(replace(config, data=other), folder, progress=False)
    other = replace(config.data, treebank=("gone.trees", config.data.treebank[1]))
    with pytest.raises(UserError, match=r"gone.trees is no file"):
        train(replace(config, data=other), folder, progress=False)
    # Sections, too, of which one changes.
    sections = tmp_path / "02-03"
    for number in (2, 3):
        (tmp_path / f"{number:02}").mkdir()
        write_treebank(tmp_path / f"{number:02}" / "a.mrg", 20, seed=number)
    data = replace(config.data, treebank=(str(sections), str(tmp_path / "03")))
    prepare_for(data, tmp_path / "new")
    manifest = Manifest.read(tmp_path / "new")
    assert manifest.changed_file(data) is None
    write_treebank(tmp_path / "03" / "a.mrg", 20, seed=9)
    assert manifest.changed_file(data) == str(sections)


def prepare_for(data, folder):
    task = task_of(data)
    return prepare(
        data, 320, folder, pairing=task.pairing, texts=task.texts(data), target_vocab_size=50
    )


def test_symbols_of_another_order_are_refused(parsing_run, tmp_path):
    """As a corpus, and as the run that parameters come from."""
    config = parsing_configuration(tmp_path, task="parsing-in-order", steps=1)
    prepare_for(replace(config.data, task="parsing"), tmp_path / "corpus")
    data = replace(config.data, corpus=str(tmp_path / "corpus"), treebank=None)
    with pytest.raises(UserError, match="prepared for another task than parsing-in-order"):
        train(replace(config, data=data), tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="was trained for parsing, whose targets are written othe"):
        train(config, tmp_path / "run", init_from=parsing_run.folder, progress=False)


def test_symbols_that_a_vocabulary_lacks_are_refused(parsing_run, tmp_path):
    """Of the run that parameters come from: each of them means something, and none is unknown."""
    config = parsing_configuration(tmp_path, steps=1)
    config = replace(config, model=parsing_run.config.model)
    with (tmp_path / "train.trees").open("a") as bank:
        bank.write("(TOP (S (NP (NNS dogs)) (VP (VB bark))))\n")
    with pytest.raises(UserError, match="have the symbols NNS, which the vocabulary of the run"):
        train(config, tmp_path / "run", init_from=parsing_run.folder, progress=False)


def test_a_parser_may_attend_to_all_words(tmp_path):
    """As the paper's does; trained for one update, and loaded again."""
    config = parsing_configuration(tmp_path, steps=1, evaluate_every=1, checkpoint_every=1)
    run = train(config, tmp_path / "run", progress=False)
    parser = Parser.load(run.folder)
    assert isinstance(parser.model, Transformer)
    [tree] = parser.parse(["the dog sees a cat"], beam_size=1)
    assert words(tree) == ["the", "dog", "sees", "a", "cat"]


def test_architectures_that_cannot_attend_to_one_word_are_refused():
    task = task_of(DataConfig(task="parsing"))
    config = ModelConfig(cross_attention_radius=1, architecture="last state")
    with pytest.raises(UserError, match="radius 1 has no meaning for architecture last state"):
        task.check_model(config)


def test_models_that_parse_leave_as_files_of_ours_alone(parsing_run, tmp_path):
    with pytest.raises(UserError, match="another task than translation"):
        export_model(parsing_run.folder, "huggingface", tmp_path / "out")
    export_model(
        parsing_run.folder, "safetensors", tmp_path / "model.safetensors", checkpoint="last"
    )
    [tree] = Parser.load(tmp_path / "model.safetensors").parse(["the dog sees a cat"])
    assert words(tree) == ["the", "dog", "sees", "a", "cat"]


def test_trees_with_unknown_symbols_are_left_out_of_the_metric(caplog):
    task = task_of(DataConfig(task="parsing"))
    vocabulary = WhitespaceVocabulary.train(["S NP NN /NP VB /S"], 20)
    gold = ["S NP NN /NP VB /S", "S <unk> NN <unk> VB /S"]
    assert task.score("f1", gold, gold, vocabulary, None) == 100
    assert task.score("f1", ["NN VB", gold[1]], gold, vocabulary, None) == 0
    assert "1 of 2 trees to evaluate on have symbols that those to train on lack" in caplog.text


def test_other_trees_are_mixed_in(tmp_path):
    data = parsing_configuration(tmp_path, task="parsing-in-order").data
    write_treebank(tmp_path / "more.trees", 100, seed=3)
    data = replace(
        data, mixed_treebank=str(tmp_path / "more.trees"), mixed_ratio=0.5, max_length=99
    )
    folder = prepare_for(data, tmp_path / "out")
    corpus = Corpus.open(folder / "train")
    assert len(corpus) == 300 + 150
    assert corpus.vocabularies.target.is_tokenized and not corpus.vocabularies.source.is_tokenized


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "translation"}, "are trees, and the task is translation: start from --preset"),
        ({"treebank": None}, "task parsing needs trees: give --treebank TRAIN VALIDATION"),
        ({"treebank": None, "dataset": "multi30k"}, "task parsing needs trees"),
        ({"source_tag": "<2de>"}, "source_tag <2de>: a tree has the words .* leave --source-tag"),
        ({"word_splitting": "moses"}, "word_splitting moses: a tree has the words"),
        ({"direction": "foo"}, "direction"),
        ({"mixed_ratio": 2.0}, "there is no text to mix in: give .* or --mixed-treebank"),
    ],
)
def test_text_that_does_not_suit_the_task_is_refused(tmp_path, fields, message):
    data = replace(parsing_configuration(tmp_path).data, **fields)
    with pytest.raises(UserError, match=message):
        task_of(data).texts(data)
