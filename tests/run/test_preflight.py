"""What a job will need later is tried before its first step."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from tests.small_job import configuration, read_jsonl, write_text
from transformer_jax import Translator, UserError
from transformer_jax.data.corpus import Corpus, LineStatistics, write_corpus
from transformer_jax.data.text import TextFiles
from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.devices.layout import Layout
from transformer_jax.evaluation.validation import Validation
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.folder import RunError
from transformer_jax.run.preflight import PROBE
from transformer_jax.run.train import train
from transformer_jax.tasks import task_of
from transformer_jax.training.metrics import MetricsWriter


@pytest.fixture
def said(monkeypatch):
    """What jobs tell at the terminal."""
    lines = []
    monkeypatch.setattr(
        MetricsWriter, "print_line", lambda self, text: lines.extend(text.splitlines())
    )
    return lines


def one_pair(tmp_path, config):
    """The configuration with a validation text of one pair."""
    files = []
    for path in config.data.validation:
        with open(path) as file:
            line = file.readline()
        files.append(tmp_path / f"one{len(files)}")
        files[-1].write_text(line)
    return replace(config, data=replace(config.data, validation=tuple(map(str, files))))


@pytest.mark.parametrize("metric", ["loss", "bleu", pytest.param("chrf", marks=pytest.mark.slow)])
def test_preflight_reports_its_checks(tmp_path, said, metric):
    config = one_pair(tmp_path, configuration(tmp_path, steps=2, best_metric=metric))
    run = train(config, tmp_path / "run", progress=False)
    [line] = [line for line in said if line.startswith("tried before the first step, in ")]
    assert "a checkpoint is saved and read back; 6 checkpoints need 0." in line
    decoded = "" if metric == "loss" else " and a predicted sentence"
    assert line.endswith(f"a batch of the validation text is scored{decoded}")
    [scored] = [r for r in read_jsonl(run.folder / "metrics.jsonl") if "validation_loss" in r]
    assert scored["step"] == 2  # what was tried is no record
    assert (f"validation_{metric}" in scored) and not (run.folder / PROBE).exists()
    said.clear()
    train(replace(config, train=replace(config.train, steps=3)), run.folder, progress=False)
    assert not [line for line in said if line.startswith("tried")]


def test_preflight_finds_too_little_disk_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    function = "transformer_jax.run.preflight.shutil.disk_usage"
    monkeypatch.setattr(function, lambda path: usage(100_000))
    config = configuration(tmp_path, steps=2)
    refusal = r"run has 0.10 MB free, but 6 checkpoints need 0.\d\d MB: make room, lower"
    with pytest.raises(RunError, match=refusal):
        train(config, tmp_path / "run", progress=False)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not read_jsonl(tmp_path / "run" / "metrics.jsonl")


def test_preflight_finds_a_store_that_loses_data(tmp_path, monkeypatch):
    def lost(self, step, templates):
        raise DamagedCheckpoint("its arrays are gone")

    monkeypatch.setattr(Checkpoints, "restore", lost)
    config = configuration(tmp_path, steps=2)
    with pytest.raises(
        RunError, match=r"cannot be read back \(its arrays are gone\): take another"
    ):
        train(config, tmp_path / "run", progress=False)


def test_preflight_leftovers_are_removed(tmp_path):
    config = configuration(tmp_path, steps=2)
    left = tmp_path / "run" / PROBE / "checkpoints" / "1"
    left.mkdir(parents=True)
    (left / "junk").write_text("x")
    run = train(config, tmp_path / "run", progress=False)
    assert not (run.folder / PROBE).exists()


def test_run_without_checkpoints_may_change_its_options(tmp_path):
    """As one that was refused before its first step."""
    config = configuration(tmp_path, steps=2)
    run = train(config, tmp_path / "run", progress=False)
    shutil.rmtree(run.folder / "checkpoints")
    shutil.rmtree(run.folder / "averaged")
    wider = replace(config, model=replace(config.model, d_ff=48))
    assert train(wider, run.folder, progress=False).config.model.d_ff == 48


def test_run_without_checkpoints_may_change_its_text(tmp_path):
    config = configuration(tmp_path, steps=2)
    other = write_text(tmp_path / "other", 30, seed=4)
    without = replace(config, data=replace(config.data, validation=None))
    run = train(without, tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="begun without a validation text and cannot take one now"):
        train(config, run.folder, progress=False)
    shutil.rmtree(run.folder / "checkpoints")
    for data in (config.data, replace(config.data, validation=other)):
        train(replace(config, data=data), run.folder, progress=False)
        expected = sum(1 for _ in TextFiles(*data.validation))
        assert len(Corpus.open(run.folder / "corpus" / "validation")) == expected
        shutil.rmtree(run.folder / "checkpoints")


def test_run_with_unreachable_checkpoints_may_not_change(tmp_path):
    """Its disk may not be mounted, or they may be where the options say now."""
    config = configuration(tmp_path, steps=2, checkpoint_dir=str(tmp_path / "store"))
    run = train(config, tmp_path / "run", progress=False)
    before = (run.folder / "config.json").read_bytes()
    (tmp_path / "store").rename(tmp_path / "moved")
    for store in ("store", "moved"):
        options = replace(config.train, checkpoint_dir=str(tmp_path / store))
        other = replace(config, optimizer=replace(config.optimizer, warmup_steps=30), train=options)
        with pytest.raises(RunError, match=r"was started with optimizer.warmup_steps = 20"):
            train(other, run.folder, progress=False)
    assert (run.folder / "config.json").read_bytes() == before
    options = replace(config.train, checkpoint_dir=str(tmp_path / "moved"), steps=3)
    assert train(replace(config, train=options), run.folder, progress=False).checkpoints().steps()


def test_run_accepts_languages_later(tmp_path):
    config = configuration(tmp_path, steps=2)
    run = train(config, tmp_path / "run", progress=False)
    assert run.config.data.languages == (None, None)
    unknown = replace(config, data=replace(config.data, direction="en-xx"))
    with pytest.raises(UserError, match="'xx' is not a language code"):
        train(unknown, run.folder, progress=False)
    told = replace(config, data=replace(config.data, direction="en-zh"))
    run = train(replace(told, train=replace(config.train, steps=3)), run.folder, progress=False)
    assert Translator.load(run.folder).languages == ("en", "zh")


@pytest.mark.slow
def test_run_initialized_from_another_knows_the_lines_of_both(tmp_path):
    config = configuration(tmp_path, steps=1)
    parent = train(config, tmp_path / "parent", progress=False)
    Path(config.data.train[0]).write_text("w1\n" * 40)
    Path(config.data.train[1]).write_text("W1\n" * 40)
    child = train(config, tmp_path / "child", init_from=parent.folder, progress=False)
    assert child.lines == parent.lines == LineStatistics(1, 6)


def test_chrf_is_the_metric_without_a_tokenizer(tmp_path, caplog):
    config = configuration(tmp_path, steps=2, best_metric="bleu")
    data = replace(config.data, vocabulary="bpe", direction="en-th", max_length=64)
    config = replace(config, data=replace(data, batch_tokens=256))
    config = replace(config, model=replace(config.model, vocab_size=276))
    with caplog.at_level("INFO"):
        run = train(config, tmp_path / "run", progress=False)
    assert run.config.train.best_metric == "chrf"
    assert "sacreBLEU cannot split th into words: best_metric is chrf" in caplog.text
    assert run.checkpoints().best_step() == 2
    again = replace(config, train=replace(config.train, steps=3))
    assert train(again, run.folder, progress=False).config.train.best_metric == "chrf"


def test_run_records_languages_and_line_lengths(tmp_path):
    config = configuration(tmp_path, steps=1)
    config = replace(config, data=replace(config.data, direction="en-fr"))
    run = train(config, tmp_path / "run", progress=False)
    tree = json.loads((run.folder / "config.json").read_text())
    assert (tree["config"]["data"]["direction"], tree["source_lines"]) == (
        "en-fr",
        {
            "sentences_per_line": 1,
            "max_tokens": 1 + max(len(s.split()) for s, _ in TextFiles(*config.data.train)),
        },
    )
    # Without the option the run resumes as it began.
    data = replace(config.data, direction=None)
    again = replace(config, data=data, train=replace(config.train, steps=2))
    assert train(again, run.folder, progress=False).config.data.direction == "en-fr"


def test_preflight_decodes_any_training_text(tmp_path):
    """More than a batch of translations usually holds."""
    config = configuration(tmp_path)
    corpus = write_corpus(tmp_path / "c", [("w1", "W1")], WhitespaceVocabulary.train(["w1"], 9))
    data = replace(config.data, max_length=5000, batch_tokens=5000)
    config, layout = replace(config, data=data), Layout(jax.devices()[:1])
    validation = Validation(config, layout, corpus, task_of(data))
    assert validation.inference.max_length == 5000
