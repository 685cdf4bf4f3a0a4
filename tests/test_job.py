"""The main job on a small language: train, stop, go on, translate, evaluate."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from transformer_jax import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    Translator,
)
from transformer_jax.checkpoints import Checkpoints
from transformer_jax.data.batching import Batches
from transformer_jax.data.corpus import Corpus, CorpusError
from transformer_jax.data.preparation import Receipt, prepare
from transformer_jax.errors import UserError
from transformer_jax.job import train
from transformer_jax.locking import locked
from transformer_jax.run import Run, RunError

WORDS = [f"w{i}" for i in range(12)]


def write_text(folder, count=400, seed=0):
    """Reversed sentences: needs attention, learned in a minute."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [rng.choices(WORDS, k=rng.randint(2, 5)) for _ in range(count)]
    (folder / "src").write_text("".join(" ".join(line) + "\n" for line in lines))
    (folder / "tgt").write_text("".join(" ".join(line[::-1]).upper() + "\n" for line in lines))
    return str(folder / "src"), str(folder / "tgt")


def configuration(folder, steps=24, **train_options):
    model = ModelConfig(vocab_size=100, d_model=16, d_ff=32, num_heads=2, num_layers=1)
    options = {"log_every": 5, "evaluate_every": 12, "checkpoint_every": 6, "average_last": 2}
    return RunConfig(
        model,
        OptimizerConfig(warmup_steps=20),
        DataConfig(
            train=write_text(folder / "train"),
            validation=write_text(folder / "validation", 40, seed=1),
            vocabulary="whitespace",
            max_length=16,
            batch_tokens=64,
            num_shapes=2,
        ),
        TrainConfig(steps=steps, **{**options, **train_options}),
    )


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_prints(folder):
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    return checkpoints.metadata(checkpoints.steps()[-1])["fingerprints"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = configuration(folder)
    run = train(config, folder / "run", progress=False)
    return folder, config, run


def test_a_run_folder_holds_everything(whole):
    _, _, run = whole
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.json", "vocabulary.json", "checkpoints", "averaged", "metrics.jsonl",
            "timings.jsonl", "tensorboard"} <= names  # fmt: skip
    records = read_jsonl(run.folder / "metrics.jsonl")
    training = [r for r in records if "loss" in r]
    assert [r["step"] for r in training] == [5, 10, 15, 20]
    assert all(r["learning_rate"] > 0 for r in training)
    assert [r["step"] for r in records if "validation_perplexity" in r] == [6, 12, 18, 24]
    timing = read_jsonl(run.folder / "timings.jsonl")
    assert all(0 <= t["waiting_share"] <= 1 for t in timing if "waiting_share" in t)


def test_going_on_is_bit_for_bit_the_uninterrupted_run(whole):
    folder, config, run = whole
    other = folder / "resumed"
    for steps in (7, 13, 24):  # 7 and 13 are between log records and between checkpoints
        train(replace(config, train=replace(config.train, steps=steps)), other, progress=False)
        if steps == 13:  # what a killed job had written after its last checkpoint
            with (other / "metrics.jsonl").open("a") as file:
                file.write('{"step": 15, "loss": 1.0}\n{"step": 16, "lo')
    assert last_prints(other) == last_prints(run.folder)

    def training_records(path):
        records = read_jsonl(path / "metrics.jsonl")
        return [r for r in records if "loss" in r]

    assert training_records(other) == training_records(run.folder)


def test_identity_fields_may_not_change(whole):
    folder, config, run = whole
    bad = replace(config, optimizer=replace(config.optimizer, beta2=0.9))
    with pytest.raises(RunError, match=r"optimizer.beta2 = 0.98 and cannot go on with 0.9"):
        train(bad, run.folder, progress=False)
    text = write_text(folder / "other", seed=9)
    bad = replace(config, data=replace(config.data, train=text))
    with pytest.raises(RunError, match="another text than"):
        train(bad, run.folder, progress=False)
    prepared = prepare(bad.data, 100, folder / "prepared")
    bad = replace(config, data=_prepared(bad.data, prepared))
    with pytest.raises(RunError, match="was trained on corpus"):
        train(bad, run.folder, progress=False)


def test_translator_needs_only_the_folder(whole):
    folder, _, run = whole
    translator = Translator.load(run.folder)
    assert translator.checkpoint == "averaged at step 24"
    out = translator.translate(["w1 w2", "", "w3"], beam_size=2)
    assert len(out) == 3
    assert out[1] == ""
    assert Translator.load(run.folder, "last").checkpoint == "step 24"
    assert Translator.load(run.folder, "best").checkpoint in ("step 12", "step 24")
    with pytest.raises(RunError, match="has no checkpoint '7'"):
        Translator.load(run.folder, "7")
    with pytest.raises(RunError, match="is not a run folder"):
        Translator.load(folder)


def test_init_from_starts_with_the_other_parameters(whole):
    folder, config, run = whole
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
def test_which_checkpoints_are_kept(tmp_path, options, kept, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, float("nan")])
    monkeypatch.setattr(
        "transformer_jax.job.make_evaluation", lambda model: lambda *_: {"loss": next(losses)}
    )
    run = train(configuration(tmp_path, **options), tmp_path / "run", progress=False)
    checkpoints = run.checkpoints()
    assert set(checkpoints.steps()) == kept
    assert checkpoints.best_step() == 12


def test_a_checkpoint_at_the_end_of_each_epoch(tmp_path):
    config = configuration(
        tmp_path, checkpoint_each_epoch=True, keep_last=100, evaluate_every=1000, steps=120
    )
    run = train(config, tmp_path / "run", progress=False)
    corpus = Corpus.open(run.folder / "corpus" / "train")
    batches = Batches(corpus, config.data, config.train.seed)
    ends = {batches.batches_before(epoch) for epoch in range(1, 9)}
    steps = run.checkpoints().steps()
    assert len(steps) >= 3
    assert set(steps) == {end for end in ends if end < 120} | {120}


def damage(folder, how):
    """Change the file that holds the parameters (others are of writing processes, since merged)."""
    file = max((folder / "params" / "d").iterdir(), key=lambda p: p.stat().st_size)
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(tmp_path, how, caplog):
    config = configuration(tmp_path, steps=12)
    run = train(config, tmp_path / "run", progress=False)
    expected = last_prints(run.folder)
    damage(run.folder / "checkpoints" / "12", how)
    with caplog.at_level(logging.WARNING):
        train(config, run.folder, progress=False)
    assert "checkpoints/12" in caplog.text
    assert "trying an older one" in caplog.text
    assert last_prints(run.folder) == expected


def test_a_refused_text_leaves_the_run_as_it_was(tmp_path):
    """The prepared corpus survives, so the run goes on, even where the text has gone."""
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    source = Path(config.data.train[0])
    source.write_text("other text\n" * 400)
    with pytest.raises(RunError, match=r"another text than .*src holds now"):
        train(config, run.folder, progress=False)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before
    source.unlink()
    train(replace(config, train=replace(config.train, steps=7)), run.folder, progress=False)
    assert Checkpoints(run.folder / "checkpoints", read_only=True).steps()[-1] == 7


def test_a_cleared_corpus_is_prepared_again_from_the_same_text_only(tmp_path):
    config = configuration(tmp_path, steps=2)
    run = train(config, tmp_path / "run", progress=False)
    config = run.config
    further = replace(config, train=replace(config.train, steps=4))
    (run.folder / "corpus" / Receipt.FILE).unlink()  # its arrays are all that counts
    train(further, run.folder, progress=False)
    shutil.rmtree(run.folder / "corpus")
    source = Path(config.data.train[0])
    text = source.read_text()
    source.write_text(text + text)
    with pytest.raises(UserError, match="lines but"):
        train(further, run.folder, progress=False)
    source.write_text(text.replace("w1", "w2"))
    with pytest.raises(RunError, match="was trained on corpus"):
        train(further, run.folder, progress=False)
    assert not (run.folder / "corpus").exists()
    source.write_text(text)
    train(replace(config, train=replace(config.train, steps=6)), run.folder, progress=False)


def test_another_dataset_or_direction_is_refused(tmp_path):
    config = configuration(tmp_path, steps=2)
    folder = tmp_path / "texts"
    folder.mkdir()
    for language, path in zip(("en", "de"), config.data.train):
        (folder / f"train.{language}").write_bytes(Path(path).read_bytes())
    data = replace(config.data, train=None, validation=None, dataset="text", data_dir=str(folder))
    run = train(replace(config, data=data), tmp_path / "run", progress=False)
    before = (run.folder / "config.json").read_bytes()
    for changed, field in (
        ({"direction": "de-en"}, "data.direction"),
        ({"dataset": "grammar", "data_dir": None}, "data.dataset"),
    ):
        other = replace(config, data=replace(data, **changed))
        with pytest.raises(RunError, match=f"was started with {field} = "):
            train(other, run.folder, progress=False)
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("where", ["tokens", "vocabulary"])
def test_a_damaged_corpus_is_not_trained_on(tmp_path, where):
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    corpus = run.folder / "corpus" / "train"
    if where == "tokens":
        file = corpus / "source.tokens.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    else:
        file = corpus / "vocabulary.json"
        file.write_text(file.read_text().replace("w1", "x1"))
    with pytest.raises(CorpusError, match="train is damaged: its arrays or its vocabulary"):
        train(config, run.folder, progress=False)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    """config.json was lost and the folder is trained in anew with another seed."""
    config = configuration(tmp_path, steps=6)
    run = train(config, tmp_path / "run", progress=False)
    (run.folder / "config.json").unlink()
    other = replace(config, train=replace(config.train, seed=5))
    with pytest.raises(RunError, match="saved with another configuration or text"):
        train(other, run.folder, progress=False)


def test_averages_are_the_mean_and_heal(whole, caplog):
    _, config, run = whole
    averaged, *last = (Translator.load(run.folder, c).params for c in ("averaged", "18", "24"))
    for mean, *parts in zip(*map(jax.tree.leaves, (averaged, *last))):
        np.testing.assert_allclose(mean, (parts[0] + parts[1]) / 2, atol=1e-7)
    damage(run.folder / "averaged" / "24", "flipped")
    with caplog.at_level(logging.WARNING):
        assert Translator.load(run.folder).checkpoint == "step 24"
    assert "averaged/24" in caplog.text
    assert "using the newest checkpoint instead" in caplog.text
    train(config, run.folder, progress=False)
    assert Translator.load(run.folder).checkpoint == "averaged at step 24"


def test_init_from_brings_vocabulary_and_average_and_survives_a_kill(whole, tmp_path):
    _, config, run = whole
    text = write_text(tmp_path / "text", 200, seed=7)  # the words come in another order
    config = replace(
        config,
        data=replace(config.data, train=text),
        optimizer=replace(config.optimizer, ema_decay=0.9),
        train=replace(config.train, steps=2),
    )
    new = train(config, tmp_path / "run", init_from=run.folder, progress=False)
    assert new.vocabulary.to_bytes() == run.vocabulary.to_bytes()
    assert new.checkpoints(read_only=True).steps() == [0, 2]
    started = Translator.load(new.folder, "0").params
    expected = Translator.load(run.folder).params
    for a, b in zip(jax.tree.leaves(started), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)
    other = replace(config, model=replace(config.model, norm="pre"))
    with pytest.raises(RunError, match="its norm is 'post', not 'pre'"):
        train(other, tmp_path / "other", init_from=run.folder, progress=False)
    assert not Run.exists(tmp_path / "other")


def test_going_on_with_average_accumulation_and_bfloat16(tmp_path):
    config = configuration(tmp_path, steps=9, best_metric="bleu")
    config = replace(
        config,
        model=replace(config.model, dtype="bfloat16"),
        optimizer=replace(config.optimizer, ema_decay=0.9, accumulate=3),
    )
    whole = train(config, tmp_path / "whole", progress=False)
    for steps in (4, 9):
        shorter = replace(config, train=replace(config.train, steps=steps))
        train(shorter, tmp_path / "parts", progress=False)
    assert last_prints(whole.folder) == last_prints(tmp_path / "parts")
    assert "validation_bleu" in read_jsonl(whole.folder / "metrics.jsonl")[-1]


def test_a_run_of_bad_gradients_stops_and_says_where(tmp_path):
    config = configuration(tmp_path, stop_after_skipped=3)
    bad = replace(config, optimizer=replace(config.optimizer, lr_factor=1e30))
    from transformer_jax.training.loop import TrainingDiverged

    with pytest.raises(TrainingDiverged, match=r"3 steps in a row, the last of them step \d+"):
        train(bad, tmp_path / "run", progress=False)


def test_two_jobs_on_one_folder(whole):
    _, config, run = whole
    before = (run.folder / "config.json").read_bytes()
    longer = replace(config, train=replace(config.train, steps=999))
    with locked(run.folder), pytest.raises(UserError, match="another job is training"):
        train(longer, run.folder, progress=False)
    assert (run.folder / "config.json").read_bytes() == before


COMMAND = """
import sys
from pathlib import Path
from transformer_jax import RunConfig
from transformer_jax.data.preparation import prepare
from transformer_jax.job import train
folder = Path(sys.argv[1])
train(RunConfig.from_json((folder / "wanted.json").read_text()), folder / "run", progress=False)
"""


def kill_and_go_on(tmp_path, whole, kills, seed):
    """SIGKILL at random moments, then let it end: everything equals the uninterrupted run."""
    _, config, run = whole
    rng = random.Random(seed)
    (tmp_path / "wanted.json").write_text(config.to_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(3, 14))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert last_prints(tmp_path / "run") == last_prints(run.folder)
    metrics = [(f / "metrics.jsonl").read_text() for f in (tmp_path / "run", run.folder)]
    assert metrics[0] == metrics[1]
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))


def test_a_killed_run_goes_on(tmp_path, whole):
    kill_and_go_on(tmp_path, whole, kills=2, seed=0)


@pytest.mark.slow
def test_a_run_killed_many_times_goes_on(tmp_path, whole):
    kill_and_go_on(tmp_path, whole, kills=12, seed=1)


@pytest.mark.slow
def test_it_learns_to_reverse(tmp_path):
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


def _prepared(data, folder):
    return replace(data, corpus=str(folder), train=None, validation=None)


def test_prepared_corpora_train_without_tyro_and_tensorflow_datasets(tmp_path, whole):
    folder, config, _ = whole
    prepared = replace(config, data=_prepared(config.data, folder / "run" / "corpus"))
    prepared = replace(prepared, train=replace(prepared.train, steps=2))
    (tmp_path / "wanted.json").write_text(prepared.to_json())
    block = "import sys; sys.modules['tyro'] = sys.modules['tensorflow_datasets'] = None\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", block + COMMAND, str(tmp_path)]
    subprocess.run(command, env=environment, check=True)
    assert Run.exists(tmp_path / "run")
