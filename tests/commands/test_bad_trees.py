"""Trees that cannot be read, and options that do not suit them, are refused in one line."""

from tests.commands.bad_input import SMALL, bad_input, check_one_message, no_setup, write

TREES = ["train", "--run-dir", "new", "--preset", "parsing", *SMALL[2:], "--treebank"]


def trees(content, name="bank"):
    return lambda: (write(name, content), write("good", "(TOP (S (NP (NN dog))))\n"))


GIVEN = [*TREES, "bank", "good"]

CASES = {
    "an unclosed bracket": (
        trees("(TOP (NN dog))\n(TOP (S (NN dog)\n"), GIVEN,
        "bank, line 2, column 6: this bracket is never closed",
    ),
    "a bracket too many": (
        trees("(TOP (NN dog)))\n"), GIVEN,
        "bank, line 1, column 15: a bracket is closed that was not opened",
    ),
    "an empty tree": (
        trees("(TOP (NN dog))\n()\n"), GIVEN,
        "bank, line 2, column 2: the bracket that is closed here holds no word: remove it",
    ),
    "two trees on a line": (
        trees("(TOP (NN dog)) (TOP (NN cat))\n"), GIVEN,
        "bank, line 1, column 16: a second tree on one line: put it on its own",
    ),
    "a word without a tag": (trees("(S dog (NN cat))\n"), GIVEN, "a bracket after the word 'dog'"),
    "no trees": (trees("\n\n"), GIVEN, "bank holds no tree: give a treebank in brackets"),
    "a missing file": (no_setup, GIVEN, "bank: No such file or directory"),
    "missing sections": (
        no_setup, [*TREES, "02-21", "22"], "02-21: there is no folder {here}/02: give sections",
    ),
    "one file": (
        trees(""), [*TREES, "bank"],
        "--treebank takes trees to train on and trees to evaluate on, not bank",
    ),
    "text beside trees": (
        trees("(TOP (NN dog))\n"), [*GIVEN, "--train", "bank", "bank"],
        "treebank brings its own text: leave train, validation, mixed_text and dataset out",
    ),
    "trees for another task": (
        trees("(TOP (NN dog))\n"),
        [*GIVEN, "--task", "translation", "--target-vocab-size", "None", "--best-metric", "loss",
         "--cross-attention-radius", "None"],
        "are trees, and the task is translation: start from --preset parsing",
    ),
    "other text beside trees": (
        trees("(TOP (NN dog))\n"), [*GIVEN, "--source-tag", "<2de>"],
        "source_tag <2de>: a tree has the words that it is given, and other trees are",
    ),
    "a label that is a tag, too": (
        trees("(TOP (S (NN dog)))\n(TOP (S (S dogs) (NN a)))\n"), GIVEN,
        "bank, tree 2: (TOP (S (S dogs) (NN a))) uses a label as a tag, too",
    ),
    "more symbols than the vocabulary holds": (
        trees("(TOP (S (NP (NN dog)) (VP (VB barks))))\n" * 9),
        [*GIVEN, "--target-vocab-size", "9", "--vocabulary", "whitespace"],
        "have 8 symbols, and target_vocab_size 9 holds 5: raise it to 12",
    ),
}  # fmt: skip


@bad_input(CASES)
def test_trees_that_cannot_be_used_get_one_message(case, real, tmp_path, caplog):
    check_one_message(case, real, tmp_path, caplog)
