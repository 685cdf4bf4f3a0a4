"""Whatever is wrong with what a user gives, the real command says it in one line and ends."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.test_recovery import damage
from tests.small_job import ENVIRONMENT, write_text
from transformer_jax.cli import main

SMALL = ["--preset", "tiny", "--vocabulary", "whitespace", "--d-model", "16", "--num-heads", "2"]
TRAIN = ["train", "--run-dir", "new", "--train", "src", "tgt", *SMALL]
# On the run of another fixture, copied to ./run with its text.
GO_ON = ["train", "--run-dir", "run"]


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "transformer_jax.cli", *arguments],
        capture_output=True, text=True, env=ENVIRONMENT, **options,
    )  # fmt: skip


def write(name, content):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def text(source, target):
    """A function that writes both sides of ./src and ./tgt."""

    def make():
        write("src", source)
        write("tgt", target)

    return make


def config(change):
    """A function that changes the tree of run/config.json."""

    def make():
        path = Path("run/config.json")
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))

    return make


def damage_all():
    for step in Path("run/checkpoints").iterdir():
        damage(step, "truncated")
    shutil.rmtree("run/averaged")


def nothing():
    pass


# (what is made in an empty folder, arguments, what the last line says). ./run is a trained run.
TEXT = {
    "missing file": (nothing, TRAIN, "src: No such file or directory"),
    "a folder for a file": (lambda: Path("src").mkdir(), TRAIN, "src: Is a directory"),
    "files of two lengths": (
        text("a\nb\nc\n", "a\nb\n"), TRAIN,
        "src has 3 lines but {here}/tgt has 2: line n of one must translate line n of the other",
    ),
    "not UTF-8": (
        text(b"a\nb \xff\n", "a\nb\n"), TRAIN,
        "src, line 2: byte 2 is not UTF-8; convert the text, for example with iconv",
    ),
    "UTF-16": (
        text("a\nb\n".encode("utf-16"), "a\nb\n"), TRAIN, "src, line 1: byte 0 is not UTF-8",
    ),
    "empty files": (text("", ""), TRAIN, "hold no pair of lines with text on both sides"),
    "empty lines only": (text("\n\n", "\n\n"), TRAIN, "no pair of lines with text on both sides"),
    "every line too long": (
        text("a b c d\n" * 9, "a\n" * 9), [*TRAIN, "--max-length", "4"],
        "no sentence pair is left: 0 have an empty side, 9 exceed max_length 4",
    ),
    "vocabulary larger than the text allows": (
        text("one two three\n" * 9, "eins zwei drei\n" * 9), [*TRAIN, "--vocabulary", "bpe"],
        "cannot train a bpe vocabulary of vocab_size 1000 on this text: it has pieces for at most",
    ),
    "vocabulary smaller than its characters": (
        text("one two three\n" * 9, "eins zwei drei\n" * 9),
        [*TRAIN, "--vocabulary", "bpe", "--vocab-size", "99"], "raise vocab_size",
    ),
    "no text": (nothing, ["train", "--run-dir", "new"], "no training text: give --train"),
    "a corpus that is none": (
        nothing, ["train", "--run-dir", "new", "--corpus", "here"], "here holds no prepared corpus",
    ),
    "a dataset without its files": (
        nothing, ["train", "--run-dir", "new", "--dataset", "multi30k", "--data-dir", "here"],
        "here lacks train.en (or train.en.gz)",
    ),
    "a pipe": (
        lambda: (os.mkfifo("src"), write("tgt", "a\n")), TRAIN,
        "src is a pipe or a device, and this text is read several times: write it to a file first",
    ),
    "packed and damaged": (
        text(gzip.compress(b"a\n" * 99)[:-5], "a\n" * 99), TRAIN, "src cannot be unpacked (",
    ),
    "lines that show nothing": (
        text(" \n\u3000\n\u200b\n", "a\nb\nc\n"), TRAIN,
        "hold no pair of lines with text on both sides",
    ),
    "archives that are not there": (
        nothing,
        ["prepare", "--output", "new", "--dataset", "wmt14_translate", "--data-dir", "here"],
        "here lacks training-parallel-europarl-v7.tgz, training-parallel-commoncrawl.tgz",
    ),
}  # fmt: skip
OPTIONS = {
    "unknown preset": (
        nothing, ["train", "--run-dir", "new", "--preset", "bsae"],
        "preset 'bsae' is unknown; did you mean 'base'?",
    ),
    "unknown dataset": (
        nothing, ["train", "--run-dir", "new", "--dataset", "gramar"], "did you mean 'grammar'?",
    ),
    "unknown language pair": (
        nothing, ["prepare", "--output", "new", "--dataset", "grammar", "--direction", "en-ed"],
        "grammar has no direction 'en-ed'; did you mean 'en-de'?",
    ),
    "a language by its name": (
        text("a\n", "b\n"), [*TRAIN, "--direction", "english-german"],
        "direction 'english-german' is not two different languages, as in en-de or de-en",
    ),
    "a language that is none": (
        text("a\n", "b\n"), [*TRAIN, "--direction", "en-xx"],
        "'xx' is no language code: give two letters of ISO 639-1, as de, or three of",
    ),
    "a language of scores that is none": (
        text("w1\n", "W1\n"),
        ["evaluate", "--run-dir", "run", "--test", "src", "tgt", "--language", "german"],
        "'german' is no language code",
    ),
    "a text without a direction": (
        nothing, ["prepare", "--output", "new", "--dataset", "text", "--data-dir", "here"],
        "dataset text needs --direction SOURCE-TARGET, as en-de",
    ),
    "a cache that cannot be": (
        lambda: (text("a\n", "b\n")(), write("file", "")), [*TRAIN, "--cache-dir", "file/cache"],
        "Not a directory: prepared data cannot be kept there; name another "
        "folder with --cache-dir or $TRANSFORMER_JAX_CACHE",
    ),
    "a folder that no checkpoint comes back from": (
        text("a\n", "b\n"), [*TRAIN, "--run-dir", "a[1]"],
        "a[1] holds '[1]', and no checkpoint can be read back from such a path: choose another",
    ),
    "a home that the shell leaves": (
        nothing, ["translate", "--run-dir=~/none"], f"{Path.home()}/none is not a run folder",
    ),
    "dataset and files": (
        nothing, [*TRAIN, "--dataset", "grammar"], "dataset grammar brings its own text",
    ),
    "a folder for no dataset": (
        nothing, [*TRAIN, "--data-dir", "d"], "data_dir d belongs to a dataset",
    ),
    "out of range": (nothing, [*TRAIN, "--dropout", "1.5"], "dropout 1.5 is outside [0, 1)"),
    "a number that is none": (
        nothing, ["translate", "--run-dir", "run", "--alpha", "nan"], "alpha nan is not finite",
    ),
    "too cold": (
        nothing, ["translate", "--run-dir", "run", "--method", "sample", "--temperature", "1e-300"],
        "temperature 1e-300 is below 1e-6: take --method greedy",
    ),
    "an unknown architecture": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--architecture", "transformr"],
        "architecture 'transformr' is unknown; did you mean 'transformer'?",
    ),
    "an unknown task": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--task", "parsing"],
        "task 'parsing' is unknown; known: translation",
    ),
    "an unknown metric": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--best-metric", "blue"],
        "best_metric 'blue' is none of the task's, loss, perplexity, accuracy, bleu, chrf",
    ),
    "a vocabulary a side for one": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--target-vocab-size", "50"],
        "target_vocab_size 50: the task translation has one vocabulary for both sides",
    ),
    "patience without evaluations": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--patience", "3"],
        "patience 3 counts evaluations, and there is no validation text: give one, or leave",
    ),
    "no patience": (nothing, [*TRAIN, "--patience", "0"], "patience 0 must be positive"),
    "a loss for a gain": (
        nothing, [*TRAIN, "--min-delta", "-0.5"], "min_delta -0.5 must not be negative",
    ),
    "no logits": (nothing, [*TRAIN, "--logits-block", "0"], "logits_block 0 must be positive"),
    "a width beyond numbers": (
        nothing, [*TRAIN, "--d-model", str(10**20)], "d_model 1e+20 is larger than 2147483647",
    ),
    "a budget beyond numbers": (
        nothing, [*TRAIN, "--batch-tokens", str(10**12)], "batch_tokens 1e+12 is larger than",
    ),
    "a beam beyond numbers": (
        nothing, ["translate", "--run-dir", "run", "--beam-size", str(10**11)],
        "beam_size 100000000000 is larger than 2147483647",
    ),
    "a model beyond memory": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--d-model", "2000000"],
        "GB a device to train, a device has",
    ),
    "no name of a preset": (nothing, [*TRAIN, "--preset="], "preset '' is unknown; known: tiny"),
    "a path that is none": (
        lambda: write("given.json", r'{"data": {"train": ["a\u0000b", "c"]}}'),
        ["train", "--run-dir", "new", "--config", "given.json"],
        "given.json is no configuration: data.train[0] holds characters that no text has",
    ),
    "a rate beyond numbers": (
        lambda: write("given.json", '{"optimizer": {"lr_factor": 1' + "0" * 400 + "}}"),
        ["train", "--run-dir", "new", "--config", "given.json"],
        "given.json is no configuration: optimizer.lr_factor must be of type float, not 1000",
    ),
    "no steps": (nothing, [*TRAIN, "--steps", "0"], "steps 0 must be positive"),
    "not finite": (nothing, [*TRAIN, "--lr-factor", "inf"], "lr_factor inf is not finite"),
    "heads that do not divide": (
        nothing, [*TRAIN, "--num-heads", "3"], "d_model 16 is not divisible by num_heads 3: choose",
    ),
    "a batch smaller than a sentence": (
        nothing, [*TRAIN, "--batch-tokens", "63"],
        "batch_tokens 63 is smaller than one sentence of max_length 64: raise the one",
    ),
    "more averaged than kept": (
        nothing, [*TRAIN, "--average-last", "9"], "average_last 9 is more than keep_last 6",
    ),
    "a trace of minus one step": (nothing, [*TRAIN, "--profile", "-1"], "profile -1 steps: must"),
    "more translations than beams": (
        nothing, ["translate", "--run-dir", "run", "--n-best", "9"], "more than beam_size 4: raise",
    ),
    "preset and file": (
        nothing, [*TRAIN, "--config", "run/config.json"], "--preset tiny: give one of them",
    ),
    "no such file of a configuration": (
        nothing, ["train", "--run-dir", "new", "--config", "none.json"], "none.json: No such file",
    ),
    "a field that is none": (
        lambda: write("given.json", '{"model": {"dff": 9}}'),
        ["train", "--run-dir", "new", "--config", "given.json"],
        "given.json is no configuration: model has no field 'dff'; did you mean 'd_ff'?",
    ),
    "nothing to evaluate on": (
        nothing, ["evaluate", "--run-dir", "run"], "give --test SOURCE REFERENCE or --split NAME",
    ),
    "a picture that is none": (
        nothing, ["schedule", "--output", "rate.txt"], "rate.txt is no picture that can be written",
    ),
    "a folder that is not empty": (
        nothing, ["verify-resume", "--output", "run"], "run is not empty: name a new folder",
    ),
}  # fmt: skip
RUNS = {
    "no run": (nothing, ["translate", "--run-dir", "none"], "none is not a run folder: it has no"),
    "an empty folder": (
        lambda: Path("empty").mkdir(), ["inspect", "--run-dir", "empty"],
        "empty is not a run folder: it has no config.json",
    ),
    "a folder of somebody's own": (
        lambda: (text("a\n" * 9, "b\n" * 9)(), Path("mine").mkdir(), write("mine/corpus/x", "x")),
        [*TRAIN, "--run-dir", "mine"], "mine/corpus is there and no prepared text: give another",
    ),
    "a file for a run": (
        lambda: write("file", "x"), ["train", "--run-dir", "file", "--dataset", "grammar"],
        "file: File exists",
    ),
    "half a run": (
        lambda: Path("run/config.json").unlink(), ["translate", "--run-dir", "run"],
        "run is not a run folder: it has no config.json",
    ),
    "a run without checkpoints": (
        lambda: [shutil.rmtree(f"run/{name}") for name in ("checkpoints", "averaged")],
        ["translate", "--run-dir", "run"], "run has no checkpoint yet",
    ),
    "a newer version": (
        config(lambda tree: tree.update(format=99)), ["translate", "--run-dir", "run"],
        "run/config.json cannot be read: its format is 99, this version reads 2",
    ),
    "made by something else": (
        lambda: write("run/config.json", '{"architectures": ["MarianMTModel"], "d_model": 512}'),
        ["translate", "--run-dir", "run"], "run/config.json cannot be read: its format is None",
    ),
    "half a configuration": (
        lambda: write("run/config.json", Path("run/config.json").read_bytes()[:99]),
        GO_ON, "run/config.json cannot be read: ",
    ),
    "a configuration without end": (
        lambda: write("run/config.json", "[" * 100_000), GO_ON, "run/config.json cannot be read: ",
    ),
    "a field of another type": (
        config(lambda tree: tree["config"]["model"].update(d_ff="32")), GO_ON,
        "run/config.json cannot be read: model.d_ff must be of type int, not '32'",
    ),
    "lines of a text that cannot be": (
        config(lambda tree: tree["source_lines"].update(max_tokens=-3)),
        ["translate", "--run-dir", "run"],
        "run/config.json cannot be read: no text has lines of 1 sentences, -3 tokens",
    ),
    "a vocabulary that is gone": (
        lambda: Path("run/vocabulary.json").unlink(), ["translate", "--run-dir", "run"],
        "run holds no vocabulary",
    ),
    "a damaged vocabulary": (
        lambda: write("run/vocabulary.json", '["a", '), ["translate", "--run-dir", "run"],
        "run/vocabulary.json is damaged: ",
    ),
    "a vocabulary of half characters": (
        lambda: write("run/vocabulary.json", r'["a", "\ud800"]'), ["translate", "--run-dir", "run"],
        "run/vocabulary.json is damaged: half a character is no text",
    ),
    "a vocabulary of another run": (
        lambda: write("run/vocabulary.json", '["a", "b"]'), ["translate", "--run-dir", "run"],
        "the vocabulary has 6 types but run/config.json says",
    ),
    "a vocabulary of another kind": (
        lambda: write("run/vocabulary.model", b"\x0a\x99"), ["translate", "--run-dir", "run"],
        "run/vocabulary.model is damaged: not a SentencePiece model",
    ),
    "checkpoints that are all damaged": (
        damage_all, ["translate", "--run-dir", "run"], "run has no sound checkpoint",
    ),
    "no such checkpoint": (
        nothing, ["translate", "--run-dir", "run", "--checkpoint", "7"],
        "run has no checkpoint '7'; it has averaged, best, last, 6, 12, 18, 24",
    ),
    "no such checkpoint to average": (
        nothing, ["average", "--run-dir", "run", "--steps", "7"], "has no checkpoint 7; it has 6",
    ),
    "no such head": (
        nothing, ["attention", "--run-dir", "run", "--source", "w1", "--head", "3"],
        "head 3: the model has heads 1 to 2",
    ),
    "a sentence too long to draw": (
        nothing, ["attention", "--run-dir", "run", "--source", "w1 " * 20],
        "the source has 20 tokens, the model was trained on at most 15: give a shorter sentence",
    ),
    "another text": (
        text("other text\n" * 400, "x\n" * 400), [*GO_ON, "--train", "src", "tgt"],
        "run was prepared from another text than {here}/src holds now",
    ),
    "another vocabulary": (
        nothing, [*GO_ON, "--vocabulary", "bpe"],
        "run was started with data.vocabulary = 'whitespace' and cannot go on with 'bpe'",
    ),
    "another model": (
        nothing, [*GO_ON, "--d-ff", "64"],
        "run was started with model.d_ff = 32 and cannot go on with 64: use the old value, or",
    ),
    "another optimizer": (nothing, [*GO_ON, "--beta2", "0.9"], "with optimizer.beta2 = 0.98 and"),
    "a test set of two lengths": (
        text("a\n", "a\nb\n"), ["evaluate", "--run-dir", "run", "--test", "src", "tgt"],
        "tgt has 2 lines but src has 1",
    ),
    "a test set without lines": (
        text("", ""), ["evaluate", "--run-dir", "run", "--test", "src", "tgt"],
        "src and tgt hold no lines to evaluate on",
    ),
    "input that is not there": (
        nothing, ["translate", "--run-dir", "run", "--input", "none"], "none: No such file",
    ),
    "output onto the input": (
        lambda: write("in", "w1\n"),
        ["translate", "--run-dir", "run", "--input", "in", "--output", "in"],
        "in is to be read and written: name another --output",
    ),
    "output onto the reference": (
        text("w1\n", "W1\n"),
        ["evaluate", "--run-dir", "run", "--test", "src", "tgt", "--output", "tgt"],
        "tgt is to be read and written: name another --output",
    ),
    "output onto a full disk": (
        lambda: write("in", "w1\n"),
        ["translate", "--run-dir", "run", "--input", "in", "--output", "/dev/full"],
        "/dev/full cannot be written: No space left on device",
    ),
    "packed output onto a full disk": (
        lambda: (write("in", "w1\n"), Path("out.xz").symlink_to("/dev/full")),
        ["translate", "--run-dir", "run", "--input", "in", "--output", "out.xz"],
        "out.xz cannot be written: No space left on device",
    ),
    "average where it cannot be read back": (
        lambda: Path("run").rename("a[1]"),
        ["average", "--run-dir", "a[1]", "--last", "1"],
        "a[1] holds '[1]', and no checkpoint can be read back from such a path: choose another",
    ),
    "a store that cannot be reached": (
        text("a\n", "b\n"),
        [*TRAIN, "--run-dir", "new", "--checkpoint-dir", "nowhere://bucket/run"],
        "nowhere://bucket/run cannot be reached (",
    ),
    "another validation text": (
        text("w1\n", "W1\n"), [*GO_ON, "--validation", "tgt", "src"],
        "was prepared from another text than {here}/tgt holds now: bring the old text back",
    ),
    "output onto a folder": (
        text("w1\n", "W1\n"),
        ["evaluate", "--run-dir", "run", "--test", "src", "tgt", "--output", "run"],
        "run: Is a directory",
    ),
}  # fmt: skip
CASES = {**TEXT, **OPTIONS, **RUNS}


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the whole run in ./run, which may be changed."""
    return shutil.copytree(whole[2].folder, tmp_path / "run")


def by_the_command(arguments):
    """(exit code, lines before, the last line)"""
    done = command(*arguments, stdin=subprocess.DEVNULL)
    *before, last = done.stderr.splitlines()
    return done.returncode, before, last


def in_this_process(arguments, caplog):
    """As `by_the_command`, where everything is imported already."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return 1, caplog.messages, str(ended.value.code)


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_message_and_no_traceback(name, real, run, tmp_path, caplog):
    make, arguments, message = CASES[name]
    make()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    run = by_the_command(arguments) if real else in_this_process(arguments, caplog)
    code, others, last = run
    assert code == 1
    assert last.startswith("transformer-jax: ")
    assert message.format(here=tmp_path) in last
    assert "\n" not in last
    warned = ("preparing ", "checkpoint ", "translating with ")
    assert not [line for line in others if not line.startswith(warned)]
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    new = {p.relative_to(tmp_path) for p in after.keys() - before.keys()}
    assert all(path.parts[0] == "cache" or path.name == "lock" for path in new)
    assert {p: after.get(p) for p in before} == before


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["trian", "--run-dir", "r"], "train"),
        (["train", "--run-dir", "r", "--stesp", "9"], "--steps"),
        (["train", "--run-dir", "r", "--steps", "many"], "many"),
        (["train", "--run-dir", "r", "--norm-placement", "middle"], "post"),
        (["translate"], "--run-dir"),
        (["train", "--run-dir", "r", "--config"], "--config"),
    ],
)
def test_options_that_are_none_are_told_with_their_nearest(arguments, said):
    """By the library that parses them; like every such library it exits with 2."""
    done = command(*arguments)
    assert done.returncode == 2
    assert said in re.sub(r"[│╭╰─╮╯\s]+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_odd_text_that_is_no_error(tmp_path):
    """Empty sides and long lines are counted, NUL is a character, CRLF ends a line."""
    source, target = (Path(p).read_text() for p in write_text(tmp_path / "plain", 200))
    long = "w1 " * 350_000 + "\n"
    write("src", (source + "\n" + "w1\n" + long + "w\0 w2\n").replace("\n", "\r\n"))
    write("tgt", target + "W1\n" + "\n" + "W1\n" + "W2 W\0\n")
    done = command("prepare", "--output", "new", "--train", "src", "tgt", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "201 pairs, vocabulary of 30; left out: 2 with an empty side, 1 beyond" in done.stderr
    types = json.loads(Path("new/train/vocabulary.json").read_text())
    assert "w\0" in types
    assert not [word for word in types if "\r" in word]
