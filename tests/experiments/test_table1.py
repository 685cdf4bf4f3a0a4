"""Layers in one frame: equal sizes, tasks whose answers are known, the program to its end."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import layer_time, recall, sequences, table1_layers
from experiments.ledger import Provenance, entries
from tests.small_job import configuration, write_text
from transformer_jax import presets
from transformer_jax.errors import UserError
from transformer_jax.models.families import family_of
from transformer_jax.training.schedule import make_schedule

WHERE = asdict(Provenance("run", "commit", "machine", {}, 1.0))


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_timed_layers_have_as_many_matrix_entries():
    for config in layer_time.TIMED.values():
        layer, given = layer_time.layer_of(config)
        x = jax.ShapeDtypeStruct((1, 2, config.d_model), "float32")
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x, *given)
        entries = sum(x.size for x in jax.tree.leaves(shapes) if len(x.shape) > 1)
        assert entries == pytest.approx(4 * 128**2, rel=0.02)


@pytest.mark.slow
def test_translating_models_have_as_many_parameters():
    base = replace(presets.tiny(1000), dropout=0.0)
    models = table1_layers.models(base)
    assert tuple(models) == table1_layers.TRANSLATED
    wanted = table1_layers.count(base)
    for config in models.values():
        family_of(config).check(config)
        assert table1_layers.count(config) == pytest.approx(wanted, rel=0.02)


def test_models_of_recall_have_as_many_parameters_beside_the_table():
    for config in recall.MODELS.values():
        tokens = jax.ShapeDtypeStruct((1, 2), "int32")
        shapes = jax.eval_shape(sequences.stack(config).init, jax.random.key(0), tokens)
        own = size(shapes) - 32 * config.d_model
        assert own == pytest.approx(98_304, rel=0.05)


def test_recall_asks_for_the_symbol():
    found = recall.sequences(np.random.default_rng(0), 16, 50)
    assert found.shape == (50, 18)
    assert (found[:, 0] == found[:, -1]).all() and (found[:, 16] == recall.QUESTION).all()
    assert set(found[:, 0]) == set(recall.SYMBOLS)
    assert not np.isin(found[:, 1:16], recall.SYMBOLS).any()


def test_recall_is_learned_within_reach_alone(tmp_path, monkeypatch):
    """A window that does not reach the symbol guesses; one that does recalls it."""
    near = replace(recall.MODELS["self-attention"], d_model=32, d_ff=32, num_layers=1)
    monkeypatch.setitem(recall.MODELS, "near", replace(near, attention_radius=4))
    monkeypatch.setitem(recall.MODELS, "all", near)
    found = {
        name: recall.Recall(name, 0, tmp_path / name, 150, distances=(8,)).find()
        for name in ("near", "all")
    }
    assert found["all"]["accuracy"]["8"] > 90
    assert found["near"]["accuracy"]["8"] < 35  # chance is one in eight


def test_derivatives_vanish_and_explode_with_the_scale():
    config = replace(recall.MODELS["rnn"], d_model=16)
    small, plain, large = (recall.derivative_norms(config, (1, 32), s) for s in (0.5, 1.0, 2.0))
    assert small[32] < 1e-6 < plain[32]
    assert small[32] / small[1] < plain[32] / plain[1] < 1 < large[32] / large[1]
    # No kernel of a stack of four layers of three tokens reaches so far.
    near = recall.derivative_norms(recall.MODELS["convolutional, 4 layers"], (1, 8, 9))
    assert near[8] > 0 == near[9]


def test_table1_parses_its_options():
    assert table1_layers.parse([]).seeds == 3
    full = table1_layers.parse(["--full"])
    assert (full.seeds, full.only) == (1, "translation")
    assert table1_layers.parse(["--seeds", "2", "--full"]).said == " --full --seeds 2"
    for words, message in (
        ("--only multi30k", "--only multi30k needs --data, the folder of Multi30k"),
        ("--seeds 0", "--seeds 0 must be positive"),
        ("--data-dir x", "--data-dir x is of --full"),
        ("--full --only memory", "--only memory has no larger size: leave --full out"),
    ):
        with pytest.raises(UserError, match=message):
            table1_layers.parse(words.split())


@pytest.mark.slow
def test_captions_are_trained_for_as_long_each(tmp_path, monkeypatch):
    """Twenty minutes of updates; rates and sizes are those of the preset."""
    seconds = {name: 0.1 * i for i, name in enumerate(table1_layers.TRANSLATED, 1)}

    def find_all(works, jobs, output):
        found = {"parameters": 1, "BLEU": 1.0, "BLEU test2016": 2.0, "where": WHERE}
        found |= {"identity": "x"}
        return {name: [{**found, "steps": w.config.train.steps}] for name, [w] in works.items()}

    monkeypatch.setattr(table1_layers, "find_all", find_all)
    monkeypatch.setattr(table1_layers, "find_speeds", lambda *given: seconds)
    arguments = table1_layers.parse(["--only", "multi30k", "--data", str(tmp_path)])
    entry = table1_layers.captions(arguments)
    [table] = entry.tables
    assert [row[4] for row in table.rows] == [12_000, 6000, 4000, 3000, 2400]
    assert [row[2] for row in table.rows] == [1] * 5 and table.rows[0][1] == 128
    # A matrix of M entries takes 6 M operations a token, forward and backward; 2.6 million here.
    assert all(row[3] == pytest.approx(6 * 2.6, rel=0.05) for row in table.rows)
    for name in table1_layers.TRANSLATED:
        [task] = table1_layers.multi30k_tasks(arguments, name, 300)
        peak = make_schedule(task.config.optimizer, task.config.model.d_model)(999)
        assert float(peak) == pytest.approx(0.003, rel=1e-3)


@pytest.mark.slow
def test_captions_are_scored_on_the_test_set_too(tmp_path):
    for language, text in zip(("en", "de"), write_text(tmp_path / "test", 8)):
        Path(text).rename(tmp_path / f"test_2016_flickr.{language}")
    config = configuration(tmp_path, steps=2)
    task = table1_layers.CaptionTask("lstm", 0, config, tmp_path / "run", 4, "text", tmp_path)
    found = task.find()
    assert {"BLEU", "BLEU test2016"} <= found.keys() and found["steps"] == 2


@pytest.mark.slow
def test_times_of_layers_are_measured_for_each():
    times, crossings, spreads = layer_time.time_table(1, lengths=(16,))
    [[length, rows, *milliseconds]] = times.rows
    assert (length, rows) == (16, 256) and all(m > 0 for m in milliseconds)
    assert [row[0] for row in crossings.rows] == list(layer_time.TIMED)[1:]
    assert spreads.rows == [[16, *[0.0] * len(layer_time.TIMED)]]  # of one round


def fake_find(task):
    """What a run of a number of updates might find."""
    score = 10 * task.seed**2 + 5 * (task.row == "lstm") + task.config.train.steps
    return {
        "steps": task.config.train.steps,
        "parameters": 7,
        **{f"BLEU {split}": score for split in table1_layers.SPLITS},
    }


def test_translation_by_updates_and_by_time(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setattr(table1_layers.SplitTask, "find", fake_find)
    monkeypatch.setattr(table1_layers.SplitTask, "describe", lambda task, found: task.row)
    monkeypatch.setattr(table1_layers, "TRANSLATED", (table1_layers.OURS, "lstm"))
    seconds = {table1_layers.OURS: 0.1, "lstm": 0.2}
    monkeypatch.setattr(table1_layers, "find_speeds", lambda *given: seconds)
    words = f"--only translation --seeds 2 --steps 100 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["table1", *words.split()])
    table1_layers.main()
    entry = entries(tmp_path)["table1-translation"]
    updates, differences, time, timed_differences = entry.tables
    assert [row[4] for row in updates.rows] == [100, 100]
    assert [row[4] for row in time.rows] == [100, 50]
    assert [row[5] for row in time.rows] == pytest.approx([10, 5])
    assert updates.rows[1][6:] == [110] * 3  # 105 and 115
    assert differences.rows[0] == ["lstm", "BLEU test", 5, 5, 5, 2]
    assert timed_differences.rows[2] == ["lstm", "BLEU distance", -45, -45, -45, 2]
    assert len(entry.details["runs"]) == 6  # those of self-attention serve both


def test_speeds_are_known_for_ever():
    """A field that is new in the configuration does not have them measured again."""
    speeds = layer_time.Speeds("speeds", 0, Path("x"), {"a": presets.tiny(100)}, 4, 16)
    assert speeds.identity == "414d48f25f0d4a5cc837de8d8f0bb064672d67aaac86ba07696102cabd45ca4c"


def test_recalls_are_known_for_ever():
    """A field that came later counts where it is not at its default."""
    work = recall.Recall("rnn", 0, Path("x"), 1000, distances=recall.DISTANCES)
    assert work.identity == "7c12d02361b5e4ac6144a1e11e96739088701910ac09e442b4de763e6b0ca5ba"
    assert replace(work, rate=0.1).identity != work.identity
    assert replace(work, recurrent_scale=2.0).identity != work.identity


@pytest.mark.slow
def test_updates_of_whole_models_are_timed_once(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setattr(layer_time, "ROUNDS", 1)
    monkeypatch.setattr(table1_layers, "TRANSLATED", (table1_layers.OURS, "rnn"))
    arguments = table1_layers.parse(["--output", str(tmp_path)])
    works = {n: table1_layers.layer_tasks(arguments, n, 9) for n in table1_layers.TRANSLATED}
    seconds = table1_layers.find_speeds(arguments, works, "small")
    assert seconds.keys() == works.keys() and all(0 < each < 60 for each in seconds.values())
    assert table1_layers.find_speeds(arguments, works, "small") == seconds


@pytest.mark.slow
def test_memory_from_end_to_end(tmp_path, monkeypatch, capsys, in_this_process):
    monkeypatch.setattr(table1_layers, "DISTANCES", (8,))
    few = {name: recall.MODELS[name] for name in ("rnn", "self-attention, radius 16")}
    monkeypatch.setattr(table1_layers, "MODELS", few)
    words = f"--only memory --seeds 2 --steps 2 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["table1", *words.split()])
    table1_layers.main()
    assert "| self-attention, radius 16 |" in capsys.readouterr().out
    assert set(entries(tmp_path)) == {"table1-memory"}
    results = list(tmp_path.glob("memory/*/result.json"))
    assert len(results) == 2 * (len(few) + 5)
    # What is finished is not done again.
    before = {path: path.stat().st_mtime_ns for path in results}
    table1_layers.main()
    assert {path: path.stat().st_mtime_ns for path in results} == before
    assert json.loads(results[0].read_text())["parameters"] > 90_000
