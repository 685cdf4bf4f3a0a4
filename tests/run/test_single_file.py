"""A model as one file: it predicts as its run does, and what is damaged is refused."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.small_job import configuration
from transformer_jax import Translator, UserError, average, train
from transformer_jax.cli import main
from transformer_jax.run.variables import load_variables
from transformer_jax.weights import export_model, import_model

LINES = ["w1 w2 w3", "w5 w4", "w7"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With running statistics, which a file is to hold, too."""
    folder = tmp_path_factory.mktemp("single")
    config = configuration(folder, 12, checkpoint_every=6)
    config = replace(config, model=replace(config.model, normalization="batch"))
    return train(config, folder / "run", progress=False)


@pytest.fixture
def file(run, tmp_path):
    export_model(run.folder, "safetensors", tmp_path / "model.safetensors", checkpoint="last")
    return tmp_path / "model.safetensors"


def test_file_predicts_as_its_run(run, file, tmp_path):
    ours, found = Translator.load(run.folder, "last"), Translator.load(file)
    assert found.translate(LINES) == ours.translate(LINES)
    assert found.score(LINES, LINES) == ours.score(LINES, LINES)
    assert found.checkpoint == "step 12 of model.safetensors"
    assert found.languages == ours.languages and found.max_length == ours.max_length
    copy = import_model(file, tmp_path / "copy")
    assert copy.config.model == run.config.model and copy.lines == run.lines
    assert copy.origin is not None and copy.origin.format == "safetensors"
    mine, theirs = (load_variables(each, "last")[0] for each in (run, copy))
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    assert Translator.load(copy.folder).score(LINES, LINES) == ours.score(LINES, LINES)


def test_file_holds_the_average_where_there_is_one(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    average(folder, last=2)
    export_model(folder, "safetensors", tmp_path / "model.safetensors")
    found = Translator.load(tmp_path / "model.safetensors")
    assert found.checkpoint == "averaged at step 12 of model.safetensors"
    assert found.score(LINES, LINES) == Translator.load(folder).score(LINES, LINES)


def edited(file, edit):
    """The file with other arrays or metadata."""
    arrays = load_file(file)
    with safe_open(file, "numpy") as opened:
        known = json.loads(opened.metadata()["transformer_jax"])
    edit(arrays, known)
    save_file(arrays, file, {"transformer_jax": json.dumps(known)})


KERNEL = "params/encoder_0/feed_forward/kernel_in"
BAD = {
    "a changed weight": (lambda a, k: a.update({KERNEL: a[KERNEL] * 2}), "other fingerprints"),
    "an array less": (lambda a, k: a.pop(KERNEL), "other fingerprints"),
    "a path out": (
        lambda a, k: a.update({"vocabulary/../x": np.ones(1, np.uint8)}), "it has a file"
    ),
    "no vocabulary": (
        lambda a, k: [a.pop(n) for n in list(a) if n.startswith("vocabulary")], "no vocabulary"
    ),
    "no configuration": (lambda a, k: k.pop("run"), "cannot be read"),
    "another model": (
        lambda a, k: k["run"]["config"]["model"].update(d_ff=64), "not those of its configuration"
    ),
    "another vocabulary": (
        lambda a, k: k["run"]["config"]["model"].update(vocab_size=7), "one of the two files"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damaged_file_is_refused(file, name):
    edit, message = BAD[name]
    edited(file, edit)
    with pytest.raises(UserError, match=message):
        Translator.load(file)


def test_other_files_are_refused(run, file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="exists: choose another file"):
        export_model(run.folder, "safetensors", file)
    with pytest.raises(UserError, match="holds one checkpoint: leave --checkpoint 3 out"):
        Translator.load(file, "3")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="is damaged"):
        Translator.load(tmp_path / "x.safetensors")
    save_file({"a": np.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="is no file of transformer-jax export"):
        Translator.load(tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SystemExit, match="normalization 'batch' cannot be expressed in CTranslate2"
    ):
        main(["export", "out", "--run-dir", str(run.folder), "--format", "ctranslate2"])
