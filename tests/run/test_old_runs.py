"""Run folders of released formats stay usable: they resume, translate, are averaged and evaluated.

tests/old_runs/ holds some, each as it was when it was told to stop, and what came of it then, with
the version that had made it:

run-format-2             at commit 22efe33, update 51 of 80: 16 wide, one layer, moving average, two
                         batches an update, dropout, text of the embedded corpus
run-format-2-batch-norm  at commit 5979451, update 40 of 60: every field that was renamed with
                         format 3 is away from its default; batch norm, patience, a checkpoint an
                         epoch
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.small_job import read_jsonl
from transformer_jax.cli import main
from transformer_jax.config.renamed import FIELDS
from transformer_jax.run.average import average
from transformer_jax.run.folder import Run
from transformer_jax.run.train import train
from transformer_jax.translator import Translator

FOLDER = Path(__file__).parents[1] / "old_runs"
OLD_RUNS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("run-*.json")
}


@pytest.fixture(params=OLD_RUNS)
def old_run(request, tmp_path):
    """(run folder, what is expected of it)."""
    with tarfile.open(FOLDER / f"{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run", OLD_RUNS[request.param]


def test_old_run_translates(old_run):
    folder, expected = old_run
    before = expected["before"]
    translator = Translator.load(folder)
    assert translator.checkpoint == before["checkpoint"]
    assert translator.translate(expected["source"]) == before["translations"]
    found = translator.score(expected["source"], expected["target"])
    np.testing.assert_allclose(found, before["log_probs"], rtol=1e-5)


def test_old_run_resumes_and_is_averaged(old_run):
    folder, expected = old_run
    run = Run.open(folder)
    restored = run.checkpoints(read_only=True).steps()[-1]
    assert run.is_own(expected["identity"], restored)
    train(run.config, folder, progress=False)
    records = read_jsonl(folder / "metrics.jsonl")
    assert [(r["step"], *r) for r in records] == [(r["step"], *r) for r in expected["metrics"]]
    for record, old in zip(records, expected["metrics"]):
        # The first record after the restored update counts what was summed up before; later ones
        # drift apart by the last bits of another processor.
        tolerance = 1e-5 if old["step"] <= restored + 8 else 2e-3
        for name in old.keys() & {"loss", "validation_loss", "learning_rate"}:
            assert record[name] == pytest.approx(old[name], rel=tolerance)
    assert average(folder, last=2) == expected["averaged"]
    found = Translator.load(folder).evaluate(expected["source"], expected["target"], language="de")
    assert found.checkpoint == expected["checkpoint"]
    assert found.perplexity == pytest.approx(expected["perplexity"], rel=2e-3)
    assert {score.name for score in found.scores} == set(expected["scores"])
    # What it has written since is of today's format, beside what is older.
    assert json.loads((folder / "config.json").read_text())["format"] == 3
    assert Run.open(folder).config == run.config


def test_old_run_has_every_renamed_field_off_its_default(tmp_path, capsys):
    """Its configuration is taken by --config, too, and read as the folder reads it."""
    with tarfile.open(FOLDER / "run-format-2-batch-norm.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "run" / "config.json"
    old = json.loads(path.read_text())["config"]
    main(["train", "--run-dir", str(tmp_path / "new"), "--config", str(path), "--print-config"])
    printed = json.loads(capsys.readouterr().out)
    defaults = json.loads(type(Run.open(path.parent).config)().to_json())
    for part, fields in FIELDS.items():
        for name, new in fields.items():
            assert printed[part][new] == old[part][name] != defaults[part][new]
