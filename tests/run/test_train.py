"""The main job on a small language: train, stop, resume, translate."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from tests.small_job import (
    ENVIRONMENT,
    command,
    configuration,
    last_fingerprints,
    read_jsonl,
    write_text,
)
from transformer_jax import (
    OptimizerConfig,
    Translator,
)
from transformer_jax.data.batching import Batches
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.preparation import prepare
from transformer_jax.devices.signals import Interrupted
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.identity import identity
from transformer_jax.run.resume import restore_or_init, with_kernels
from transformer_jax.run.train import train
from transformer_jax.training.runners import Runner


def test_run_folder_holds_everything(uninterrupted_run):
    _, _, run = uninterrupted_run
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.json", "vocabulary.json", "checkpoints", "averaged", "metrics.jsonl",
            "timings.jsonl", "tensorboard"} <= names  # fmt: skip
    records = read_jsonl(run.folder / "metrics.jsonl")
    training = [r for r in records if "loss" in r]
    assert [r["step"] for r in training] == [5, 10, 15, 20]
    assert all(r["learning_rate"] > 0 for r in training)
    assert [r["step"] for r in records if "validation_perplexity" in r] == [6, 12, 18, 24]
    timing = read_jsonl(run.folder / "timings.jsonl")
    assert all(0 <= t["input_wait_fraction"] <= 1 for t in timing if "input_wait_fraction" in t)


@pytest.fixture
def asked(monkeypatch):
    """What a job asks to be compiled ahead, and when it makes or restores its state."""
    found = []
    compiling_ahead, restore = Runner.compiling_ahead, restore_or_init

    def recorded(self, shapes, accumulation_steps):
        found.append((shapes, accumulation_steps))
        return compiling_ahead(self, shapes, accumulation_steps)

    def restored(*arguments):
        found.append("state")
        return restore(*arguments)

    monkeypatch.setattr(Runner, "compiling_ahead", recorded)
    monkeypatch.setattr("transformer_jax.run.train.restore_or_init", restored)
    return found


def test_train_compiles_the_shapes_of_its_steps_ahead(tmp_path, asked):
    """From before its parameters are drawn, and from an older checkpoint where one is damaged."""
    config = configuration(tmp_path)
    config = replace(config, train=replace(config.train, steps=3, checkpoint_every=2))
    run = train(config, tmp_path / "run", progress=False)
    batches = Batches(run.training_corpus(), config.data, config.train.seed)

    def ahead(first, last):
        return batches.shapes_ahead(first, last), 1

    assert asked == [ahead(0, 3), "state"] and len(asked[0][0]) > 1
    asked.clear()
    shutil.rmtree(run.folder / "checkpoints" / "3" / "params")
    config = replace(config, train=replace(config.train, steps=9))
    train(config, run.folder, progress=False)
    assert asked == [ahead(3, 9), "state", ahead(2, 9)]
    asked.clear()
    train(config, run.folder, progress=False)
    assert asked == ["state"]


def test_resume_is_bit_for_bit(uninterrupted_run):
    folder, config, run = uninterrupted_run
    other = folder / "resumed"
    for steps in (7, 13, 24):  # 7 and 13 are between log records and between checkpoints
        train(replace(config, train=replace(config.train, steps=steps)), other, progress=False)
        if steps == 13:  # what a killed job had written after its last checkpoint
            with (other / "metrics.jsonl").open("a") as file:
                file.write('{"step": 15, "loss": 1.0}\n{"step": 16, "lo')
    assert last_fingerprints(other) == last_fingerprints(run.folder)

    def training_records(path):
        records = read_jsonl(path / "metrics.jsonl")
        return [r for r in records if "loss" in r]

    assert training_records(other) == training_records(run.folder)


def _prepared(data, folder):
    return replace(data, corpus=str(folder), train=None, validation=None)


def test_resume_rejects_changed_identity_fields(uninterrupted_run):
    folder, config, run = uninterrupted_run
    bad = replace(config, optimizer=replace(config.optimizer, beta2=0.9))
    with pytest.raises(RunError, match=r"optimizer.beta2 = 0.98 and cannot be resumed with 0.9"):
        train(bad, run.folder, progress=False)
    text = write_text(folder / "other", seed=9)
    bad = replace(config, data=replace(config.data, train=text))
    with pytest.raises(RunError, match="another text than"):
        train(bad, run.folder, progress=False)
    prepared = prepare(bad.data, 100, folder / "prepared")
    bad = replace(config, data=_prepared(bad.data, prepared))
    with pytest.raises(RunError, match="was trained on corpus"):
        train(bad, run.folder, progress=False)


def test_run_keeps_the_kernels_that_it_began_with(tmp_path):
    """One of before there were kernels was computed by the definitions, and so goes on."""
    config = configuration(tmp_path, log_every=1)
    definition = replace(config, model=replace(config.model, kernels="definition"))
    whole = train(definition, tmp_path / "whole", progress=False)
    shorter = replace(definition, train=replace(definition.train, steps=12))
    train(shorter, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "config.json"
    tree = json.loads(path.read_text())
    assert tree["config"]["model"].pop("kernels") == "definition"
    del tree["config"]["model"]["remat"]
    path.write_text(json.dumps(tree))
    resumed = train(config, tmp_path / "run", progress=False)
    assert resumed.config.model.kernels == "definition"
    assert json.loads(path.read_text())["config"]["model"]["kernels"] == "definition"
    found, expected = (read_jsonl(run.folder / "metrics.jsonl") for run in (resumed, whole))
    losses = [[r["loss"] for r in records if "loss" in r] for records in (found, expected)]
    assert len(losses[0]) == 24 and losses[0] == losses[1]


def test_run_begins_with_compact_kernels_and_takes_others_when_told(uninterrupted_run, caplog):
    _, config, run = uninterrupted_run
    assert config.model.kernels == "auto"
    assert Run.open(run.folder).config.model.kernels == "compact"
    other = replace(config, model=replace(config.model, kernels="blockwise", remat="layers"))
    assert identity(other, "text") == identity(config, "text")
    with caplog.at_level("INFO"):
        model = with_kernels(other.model, run)
    assert (model, caplog.messages) == (
        other.model,
        [f"{run.folder} goes on with kernels blockwise instead of compact: numbers differ by "
         "rounding from here"],
    )  # fmt: skip


def test_resume_rejects_fewer_steps_and_another_direction(tmp_path):
    config = configuration(tmp_path, steps=2)
    config = replace(config, data=replace(config.data, direction="en-fr"))
    folder = train(config, tmp_path / "run", progress=False).folder
    before = (folder / "config.json").read_bytes()
    fewer = replace(config, train=replace(config.train, steps=1))
    with pytest.raises(RunError, match="is at step 2, beyond the 1 asked for"):
        train(fewer, folder, progress=False)
    for direction in ("en-de", "en-xx"):
        other = replace(config, data=replace(config.data, direction=direction))
        with pytest.raises(RunError, match=f"translates en-fr, not {direction}"):
            train(other, folder, progress=False)
    assert (folder / "config.json").read_bytes() == before
    assert train(config, folder, progress=False).config.data == config.data


@pytest.mark.parametrize(
    ("lr_factor", "is_worse"), [pytest.param(0.1, True, marks=pytest.mark.slow), (4.0, False)]
)
def test_average_worse_than_the_newest_checkpoint_is_reported(
    tmp_path, caplog, lr_factor, is_worse
):
    """While the loss still falls fast the mean of old parameters is behind."""
    config = configuration(tmp_path, steps=24, average_last=4)
    config = replace(config, optimizer=replace(config.optimizer, lr_factor=lr_factor))
    folder = train(config, tmp_path / "run", progress=False).folder
    sources, targets = (Path(file).read_text().splitlines() for file in config.data.validation)
    averaged, last = (
        np.log(Translator.load(folder, name).perplexity(sources, targets))
        for name in ("averaged", "last")
    )
    assert (averaged > last) == is_worse
    message = (
        f"the average of the checkpoints of steps 6 to 24 has validation loss {averaged:.3f}, the "
        f"newest checkpoint {last:.3f}: translate with --checkpoint last"
    )
    assert (message in caplog.text) == ("--checkpoint last" in caplog.text) == is_worse


def test_translator_needs_only_the_folder(uninterrupted_run):
    folder, _, run = uninterrupted_run
    translator = Translator.load(run.folder)
    assert translator.checkpoint == "averaged at step 24"
    out = translator.translate(["w1 w2", "", "w3"], beam_size=2)
    assert len(out) == 3
    assert out[1] == ""
    assert Translator.load(run.folder, "last").checkpoint == "step 24"
    assert Translator.load(run.folder, "best").checkpoint in ("step 18", "step 24")
    with pytest.raises(RunError, match="has no checkpoint '7'"):
        Translator.load(run.folder, "7")
    with pytest.raises(RunError, match="is not a run folder"):
        Translator.load(folder)


def test_init_from_starts_with_the_other_parameters(uninterrupted_run):
    folder, config, run = uninterrupted_run
    config = replace(config, train=replace(config.train, steps=1, checkpoint_every=1, seed=5))
    config = replace(config, optimizer=replace(config.optimizer, lr_factor=1e-9))
    new = train(config, folder / "from", init_from=run.folder, progress=False)
    old, started = (Translator.load(f, c) for f, c in ((run.folder, "averaged"), (new.folder, "1")))
    for a, b in zip(jax.tree.leaves(old.params), jax.tree.leaves(started.params)):
        assert float(abs(a - b).max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep_last": 2, "average_last": 2}, {12, 18, 24}),  # 12 has the best validation loss
        ({"keep_last": 1, "average_last": 1, "keep_every": 12}, {12, 24}),
    ],
)
def test_retention_of_checkpoints(tmp_path, options, kept, monkeypatch):
    losses = iter([9.0, 3.0, 1.0, 2.0, float("nan"), 4.0])  # before the first step, ..., average
    monkeypatch.setattr(
        "transformer_jax.tasks.task.make_evaluation", lambda *_: lambda *_: {"loss": next(losses)}
    )
    run = train(configuration(tmp_path, **options), tmp_path / "run", progress=False)
    checkpoints = run.checkpoints()
    assert set(checkpoints.steps()) == kept
    assert checkpoints.best_step() == 12


def test_checkpoint_at_the_end_of_each_epoch(tmp_path):
    config = configuration(
        tmp_path, checkpoint_every_epoch=True, keep_last=100, evaluate_every=1000, steps=120
    )
    run = train(config, tmp_path / "run", progress=False)
    corpus = Corpus.open(run.folder / "corpus" / "train")
    batches = Batches(corpus, config.data, config.train.seed)
    ends = {batches.batches_before(epoch) for epoch in range(1, 9)}
    steps = run.checkpoints().steps()
    assert len(steps) >= 3
    assert set(steps) == {end for end in ends if end < 120} | {120}


def test_resume_rejects_another_dataset_or_direction(tmp_path):
    config = configuration(tmp_path, steps=2)
    folder = tmp_path / "texts"
    folder.mkdir()
    for language, path in zip(("en", "de"), config.data.train):
        (folder / f"train.{language}").write_bytes(Path(path).read_bytes())
    data = replace(config.data, train=None, validation=None, dataset="text", data_dir=str(folder))
    data = replace(data, direction="en-de")
    run = train(replace(config, data=data), tmp_path / "run", progress=False)
    before = (run.folder / "config.json").read_bytes()
    for changed, message in (
        ({"direction": "de-en"}, "translates en-de, not de-en"),
        ({"dataset": "grammar", "data_dir": None}, "was started with data.dataset = "),
    ):
        other = replace(config, data=replace(data, **changed))
        with pytest.raises(RunError, match=message):
            train(other, run.folder, progress=False)
    assert (run.folder / "config.json").read_bytes() == before


def test_init_from_brings_vocabulary_and_average_and_survives_a_kill(
    uninterrupted_run, tmp_path, monkeypatch
):
    _, config, run = uninterrupted_run
    text = write_text(tmp_path / "text", 200, seed=7)  # the words come in another order
    config = replace(
        config,
        data=replace(config.data, train=text),
        optimizer=replace(config.optimizer, ema_decay=0.9),
        train=replace(config.train, steps=2),
    )

    def end(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformer_jax.run.train.train_loop", end)
    with pytest.raises(
        Interrupted, match="stopped by SIGINT; resume with: transformer-jax train --run"
    ):
        train(config, tmp_path / "run", init_from=run.folder, progress=False)
    monkeypatch.undo()
    new = Run.open(tmp_path / "run")
    assert new.vocabularies.source.to_bytes() == run.vocabularies.source.to_bytes()
    assert new.checkpoints(read_only=True).steps() == [0]
    started = Translator.load(new.folder, "0").params
    expected = Translator.load(run.folder).params
    for a, b in zip(jax.tree.leaves(started), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)
    train(config, tmp_path / "run", progress=False)
    assert new.checkpoints(read_only=True).steps() == [2]
    other = replace(config, model=replace(config.model, norm_placement="pre"))
    with pytest.raises(RunError, match="its norm_placement is 'post', not 'pre'"):
        train(other, tmp_path / "other", init_from=run.folder, progress=False)
    assert not Run.exists(tmp_path / "other")


@pytest.mark.slow
def test_resume_with_average_accumulation_and_bfloat16(tmp_path):
    config = configuration(tmp_path, steps=9, best_metric="bleu")
    config = replace(
        config,
        model=replace(config.model, dtype="bfloat16"),
        data=replace(config.data, max_batch_shapes=1),  # each is compiled
        optimizer=replace(config.optimizer, ema_decay=0.9, accumulation_steps=3),
    )
    whole = train(config, tmp_path / "whole", progress=False)
    for steps in (4, 9):
        shorter = replace(config, train=replace(config.train, steps=steps))
        train(shorter, tmp_path / "parts", progress=False)
    assert last_fingerprints(whole.folder) == last_fingerprints(tmp_path / "parts")
    assert "validation_bleu" in read_jsonl(whole.folder / "metrics.jsonl")[-1]


def test_nonfinite_gradients_stop_the_run(tmp_path):
    config = configuration(tmp_path, max_consecutive_skips=3)
    bad = replace(config, optimizer=replace(config.optimizer, lr_factor=1e30))
    from transformer_jax.training.loop import TrainingDiverged

    with pytest.raises(TrainingDiverged, match=r"3 steps in a row, the last of them step \d+"):
        train(bad, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_training_learns_to_reverse(tmp_path):
    """End to end: exact translations of sentences it has not seen."""
    config = configuration(tmp_path, steps=1500, evaluate_every=1500, checkpoint_every=300)
    config = replace(
        config,
        model=replace(config.model, d_model=32, d_ff=64, dropout=0.0),
        data=replace(config.data, batch_tokens=256, train=write_text(tmp_path / "train", 4000)),
        optimizer=OptimizerConfig(warmup_steps=200),
    )
    run = train(config, tmp_path / "run", progress=False)
    source, target = (Path(p).read_text().splitlines() for p in config.data.validation)
    translations = Translator.load(run.folder).translate(source)
    assert sum(a == b for a, b in zip(translations, target)) > 0.8 * len(target)


def test_prepared_corpora_train_without_tyro_and_tensorflow_datasets(tmp_path, uninterrupted_run):
    folder, config, _ = uninterrupted_run
    prepared = replace(config, data=_prepared(config.data, folder / "run" / "corpus"))
    prepared = replace(prepared, train=replace(prepared.train, steps=2))
    block = "import sys; sys.modules['tyro'] = sys.modules['tensorflow_datasets'] = None\n"
    subprocess.run(command(tmp_path, prepared, block), env=ENVIRONMENT, check=True)
    assert Run.exists(tmp_path / "run")


@pytest.mark.parametrize("remote", [pytest.param(False, marks=pytest.mark.slow), True])
def test_checkpoint_dir_elsewhere(tmp_path, monkeypatch, remote):
    """On another disk, or by way of the paths that reach buckets (here of a local folder)."""
    there = tmp_path / "there"
    if remote:
        monkeypatch.setattr(Run, "checkpoint_root", property(lambda self: epath.Path(there)))
    config = configuration(tmp_path, steps=6, checkpoint_dir="there", average_last=1)
    train(config, tmp_path / "run", progress=False)
    longer = replace(config, train=replace(config.train, steps=12, keep_last=1))
    run = train(longer, tmp_path / "run", progress=False)
    assert run.config.train.checkpoint_dir == str(there)
    assert not {"checkpoints", "averaged"} & {path.name for path in run.folder.iterdir()}
    assert run.checkpoints(read_only=True).steps()[-1] == 12
    assert Translator.load(run.folder).checkpoint == "averaged at step 12"
    newest = there / "checkpoints" / "12" / "params" / "manifest.ocdbt"
    newest.write_bytes(newest.read_bytes()[:-7])
    evenlonger = replace(config, train=replace(config.train, steps=13))
    with pytest.raises(RunError, match="has no intact checkpoint to resume from"):
        train(evenlonger, tmp_path / "run", progress=False)


def test_run_folder_must_be_on_a_file_system(tmp_path):
    with pytest.raises(RunError, match=r"is not on a file system.*--checkpoint-dir may be"):
        train(configuration(tmp_path), Path("gs://bucket/run"))
