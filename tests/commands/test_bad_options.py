"""Options that mean nothing are refused in one line."""

import re
from pathlib import Path

import pytest

from tests.commands.bad_input import (
    GO_ON,
    TRAIN,
    bad_input,
    check_one_message,
    command,
    no_setup,
    text,
    write,
)

CASES = {
    "an option of other toolkits": (
        no_setup, ["train", "--run-dir", "new", "--learning-rate", "1e-3"],
        "there is no option --learning-rate: --peak-learning-rate sets the rate at the end of --",
    ),
    "two peaks of the learning rate": (
        no_setup, [*TRAIN, "--lr-factor", "0.5", "--peak-learning-rate", "1e-4"],
        "lr_factor 0.5 and peak_learning_rate 0.0001 both set the peak of the learning rate: leave",
    ),
    "a peak that is none": (
        no_setup, [*TRAIN, "--peak-learning-rate", "0"], "peak_learning_rate 0.0 must be positive",
    ),
    "frozen parameters of another toolkit": (
        no_setup, [*TRAIN, "--frozen", "encoder.layers.0"],
        "frozen 'encoder.layers.0' is no part of the model; did you mean 'encoder_0'?",
    ),
    "everything frozen": (
        no_setup, [*TRAIN, "--frozen", "*"], "frozen *: that is all of the model, and nothing is l",
    ),
    "another rate without --change-optimizer": (
        no_setup, [*GO_ON, "--peak-learning-rate", "0.1"],
        "optimizer.peak_learning_rate = None and cannot be resumed with 0.1: use the old value",
    ),
    "another size than that of the vocabulary taken over": (
        no_setup, [*TRAIN[:1], "--run-dir", "new", "--init-from", "run", "--vocab-size", "8000"],
        "--vocab-size 8000: the vocabulary is that of --init-from run, which has ",
    ),
    "an option that has another name now": (
        no_setup, ["translate", "--run-dir", "run", "--penalty", "none"],
        "--penalty is now --length-penalty: write the new name",
    ),
    "a field that has another name now": (
        no_setup, [*GO_ON, "--accumulate=2"],
        "--accumulate is now --accumulation-steps: write the new name",
    ),
    "a value that has another name now": (
        no_setup, ["translate", "--run-dir", "run", "--eos_rule=place"],
        "--eos-rule place is now --eos-rule shrink: write the new name",
    ),
    "a configuration with a name of before": (
        lambda: write("old.json", '{"model": {"tied": "all"}, "data": {"num_shapes": 1}}'),
        ["train", "--run-dir", "new", "--config", "old.json"],
        "old.json is not a configuration: model.tied is now model.tied_embeddings, "
        "data.num_shapes is now data.max_batch_shapes: write the new name",
    ),
    "unknown preset": (
        no_setup, ["train", "--run-dir", "new", "--preset", "bsae"],
        "preset 'bsae' is unknown; did you mean 'base'?",
    ),
    "unknown dataset": (
        no_setup, ["train", "--run-dir", "new", "--dataset", "gramar"], "did you mean 'grammar'?",
    ),
    "unknown language pair": (
        no_setup, ["prepare", "--output", "new", "--dataset", "grammar", "--direction", "en-ed"],
        "grammar has no direction 'en-ed'; did you mean 'en-de'?",
    ),
    "a language by its name": (
        text("a\n", "b\n"), [*TRAIN, "--direction", "english-german"],
        "direction 'english-german' is not two different languages with a hyphen",
    ),
    "a language that is none": (
        text("a\n", "b\n"), [*TRAIN, "--direction", "en-xx"],
        "'xx' is not a language code: give two letters of ISO 639-1, as de, or three of",
    ),
    "a language of scores that is none": (
        text("w1\n", "W1\n"),
        ["evaluate", "--run-dir", "run", "--test", "src", "tgt", "--language", "german"],
        "'german' is not a language code",
    ),
    "a text without a direction": (
        no_setup, ["prepare", "--output", "new", "--dataset", "text", "--data-dir", "here"],
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
        no_setup, ["translate", "--run-dir=~/none"], f"{Path.home()}/none is not a run folder",
    ),
    "dataset and files": (
        no_setup, [*TRAIN, "--dataset", "grammar"], "dataset grammar brings its own text",
    ),
    "a folder for no dataset": (
        no_setup, [*TRAIN, "--data-dir", "d"], "data_dir d needs a dataset",
    ),
    "out of range": (no_setup, [*TRAIN, "--dropout", "1.5"], "dropout 1.5 is outside [0, 1)"),
    "a number that is none": (
        no_setup, ["translate", "--run-dir", "run", "--alpha", "nan"], "alpha nan is not finite",
    ),
    "too cold": (
        no_setup,
        ["translate", "--run-dir", "run", "--method", "sample", "--temperature", "1e-300"],
        "temperature 1e-300 is below 1e-6: take --method greedy",
    ),
    "an unknown architecture": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--architecture", "transformr"],
        "architecture 'transformr' is unknown; did you mean 'transformer'?",
    ),
    "words that no task knows": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--cross-attention-radius", "1"],
        "cross_attention_radius 1: only the task parsing knows which word of the source comes next",
    ),
    "a radius below 0": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--cross-attention-radius=-1"],
        "cross_attention_radius -1 is less than 0",
    ),
    "an unknown task": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--task", "summary"],
        "task 'summary' is unknown; known: translation, parsing",
    ),
    "an unknown metric": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--best-metric", "blue"],
        "best_metric 'blue' is not one of the task's, loss, perplexity, accuracy, bleu, chrf",
    ),
    "a vocabulary a side for one": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--target-vocab-size", "50"],
        "target_vocab_size 50: the task translation has one vocabulary for both sides",
    ),
    "patience without evaluations": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--patience", "3"],
        "patience 3 counts evaluations, and there is no validation text: give one, or leave",
    ),
    "no patience": (no_setup, [*TRAIN, "--patience", "0"], "patience 0 must be positive"),
    "a loss for a gain": (
        no_setup, [*TRAIN, "--min-delta", "-0.5"], "min_delta -0.5 must not be negative",
    ),
    "no logits": (no_setup, [*TRAIN, "--logits-block", "0"], "logits_block 0 must be positive"),
    "kernels of another device": (
        no_setup,
        [*TRAIN, "--kernels", "cudnn", "--dtype", "bfloat16"],
        "kernels 'cudnn' needs a CUDA device, and this one is a cpu: choose compact",
    ),
    "kernels without weights": (
        no_setup,
        [*TRAIN, "--kernels", "blockwise", "--attention-dropout", "0.1"],
        "forms no attention weights, which attention_dropout 0.1 needs: choose compact",
    ),
    "a width beyond numbers": (
        no_setup, [*TRAIN, "--d-model", str(10**20)], "d_model 1e+20 is larger than 2147483647",
    ),
    "a budget beyond numbers": (
        no_setup, [*TRAIN, "--batch-tokens", str(10**12)], "batch_tokens 1e+12 is larger than",
    ),
    "a beam beyond numbers": (
        no_setup, ["translate", "--run-dir", "run", "--beam-size", str(10**11)],
        "beam_size 100000000000 is larger than 2147483647",
    ),
    "a model beyond memory": (
        text("a\n" * 9, "b\n" * 9), [*TRAIN, "--d-model", "2000000"],
        "GB per device to train, but a device has",
    ),
    "no name of a preset": (no_setup, [*TRAIN, "--preset="], "preset '' is unknown; known: tiny"),
    "a path that is none": (
        lambda: write("given.json", r'{"data": {"train": ["a\u0000b", "c"]}}'),
        ["train", "--run-dir", "new", "--config", "given.json"],
        "given.json is not a configuration: data.train[0] contains NUL or an unpaired surrogate",
    ),
    "a rate beyond numbers": (
        lambda: write("given.json", '{"optimizer": {"lr_factor": 1' + "0" * 400 + "}}"),
        ["train", "--run-dir", "new", "--config", "given.json"],
        "given.json is not a configuration: optimizer.lr_factor must be of type float, not 1000",
    ),
    "no steps": (no_setup, [*TRAIN, "--steps", "0"], "steps 0 must be positive"),
    "not finite": (no_setup, [*TRAIN, "--lr-factor", "inf"], "lr_factor inf is not finite"),
    "heads that do not divide": (
        no_setup,
        [*TRAIN, "--num-heads", "3"],
        "d_model 16 is not divisible by num_heads 3: choose",
    ),
    "a batch smaller than a sentence": (
        no_setup, [*TRAIN, "--batch-tokens", "63"],
        "batch_tokens 63 is smaller than one sentence of max_length 64: raise it",
    ),
    "more averaged than kept": (
        no_setup, [*TRAIN, "--average-last", "9"], "average_last 9 is more than keep_last 6",
    ),
    "a trace of minus one step": (no_setup, [*TRAIN, "--profile", "-1"], "profile -1 steps: must"),
    "more translations than beams": (
        no_setup,
        ["translate", "--run-dir", "run", "--n-best", "9"],
        "more than beam_size 4: raise",
    ),
    "preset and file": (
        no_setup, [*TRAIN, "--config", "run/config.json"], "--preset tiny: give one of them",
    ),
    "no such file of a configuration": (
        no_setup, ["train", "--run-dir", "new", "--config", "none.json"], "none.json: No such file",
    ),
    "a field that is none": (
        lambda: write("given.json", '{"model": {"dff": 9}}'),
        ["train", "--run-dir", "new", "--config", "given.json"],
        "given.json is not a configuration: model has no field 'dff'; did you mean 'd_ff'?",
    ),
    "one file of text": (
        no_setup, [*TRAIN[:3], "--train", "src"], "--train takes a source file and a target file",
    ),
    "nothing to evaluate on": (
        no_setup, ["evaluate", "--run-dir", "run"], "give one of --test SOURCE REFERENCE, ",
    ),
    "a picture that is none": (
        no_setup,
        ["schedule", "--output", "rate.txt"],
        "rate.txt is not a picture file",
    ),
    "a folder that is not empty": (
        no_setup, ["verify-resume", "--output", "run"], "run is not empty: name a new folder",
    ),
}  # fmt: skip


@bad_input(CASES)
def test_bad_options_get_one_message(case, real, run, tmp_path, caplog):
    check_one_message(case, real, tmp_path, caplog)


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
def test_unknown_options_get_a_suggestion(arguments, said):
    """By the library that parses them; like every such library it exits with 2."""
    done = command(*arguments)
    assert done.returncode == 2
    assert said in re.sub(r"[│╭╰─╮╯\s]+", " ", done.stderr)
    assert "Traceback" not in done.stderr
