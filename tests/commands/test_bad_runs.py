"""Run folders that cannot be used are refused in one line."""

import shutil
from pathlib import Path

from tests.commands.bad_input import (
    GO_ON,
    TRAIN,
    bad_input,
    check_one_message,
    config,
    damage_all,
    no_setup,
    text,
    write,
)

CASES = {
    "no run": (no_setup, ["translate", "--run-dir", "none"], "none is not a run folder: it has no"),
    "an empty folder": (
        lambda: Path("empty").mkdir(), ["inspect", "--run-dir", "empty"],
        "empty is not a run folder: it has no config.json",
    ),
    "a folder of somebody's own": (
        lambda: (text("a\n" * 9, "b\n" * 9)(), Path("mine").mkdir(), write("mine/corpus/x", "x")),
        [*TRAIN, "--run-dir", "mine"], "mine/corpus is not prepared text: give another",
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
        "run/vocabulary.json is damaged: it has an unpaired surrogate",
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
        damage_all, ["translate", "--run-dir", "run"], "run has no intact checkpoint",
    ),
    "no such checkpoint": (
        no_setup, ["translate", "--run-dir", "run", "--checkpoint", "7"],
        "run has no checkpoint '7'; it has averaged, best, last, 6, 12, 18, 24",
    ),
    "no such checkpoint to average": (
        no_setup, ["average", "--run-dir", "run", "--steps", "7"], "has no checkpoint 7; it has 6",
    ),
    "no such head": (
        no_setup, ["attention", "--run-dir", "run", "--source", "w1", "--head", "3"],
        "head 3: the model has heads 1 to 2",
    ),
    "a sentence too long to draw": (
        no_setup, ["attention", "--run-dir", "run", "--source", "w1 " * 20],
        "the source has 20 tokens, the model was trained on at most 15: give a shorter sentence",
    ),
    "another text": (
        text("other text\n" * 400, "x\n" * 400), [*GO_ON, "--train", "src", "tgt"],
        "run was prepared from another text than {here}/src holds now",
    ),
    "text that does not exist": (
        no_setup, [*GO_ON, "--train", "nope", "tgt"],
        "nope is no file, and run was begun with another name of its text: give a file that",
    ),
    "a path with a backslash": (
        lambda: Path("run").rename("r\\n"), ["translate", "--run-dir", "r\\n"],
        "holds '\\\\', and no checkpoint can be read back from such a path: choose another",
    ),
    "another vocabulary": (
        no_setup, [*GO_ON, "--vocabulary", "bpe"],
        "run was started with data.vocabulary = 'whitespace' and cannot be resumed with 'bpe'",
    ),
    "another model": (
        no_setup, [*GO_ON, "--d-ff", "64"],
        "run was started with model.d_ff = 32 and cannot be resumed with 64: use the old value, or",
    ),
    "another optimizer": (no_setup, [*GO_ON, "--beta2", "0.9"], "with optimizer.beta2 = 0.98 and"),
    "a test set of two lengths": (
        text("a\n", "a\nb\n"), ["evaluate", "--run-dir", "run", "--test", "src", "tgt"],
        "tgt has 2 lines but src has 1",
    ),
    "a test set without lines": (
        text("", ""), ["evaluate", "--run-dir", "run", "--test", "src", "tgt"],
        "src and tgt hold no lines to evaluate on",
    ),
    "input that is not there": (
        no_setup, ["translate", "--run-dir", "run", "--input", "none"],
        "--input none does not exist: give a file of lines",
    ),
    "output onto the input": (
        lambda: write("in", "w1\n"),
        ["translate", "--run-dir", "run", "--input", "in", "--output", "in"],
        "in is both input and output: give another --output",
    ),
    "output onto the reference": (
        text("w1\n", "W1\n"),
        ["evaluate", "--run-dir", "run", "--test", "src", "tgt", "--output", "tgt"],
        "tgt is both input and output: give another --output",
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


@bad_input(CASES)
def test_bad_runs_get_one_message(case, real, run, tmp_path, caplog):
    check_one_message(case, real, tmp_path, caplog)
