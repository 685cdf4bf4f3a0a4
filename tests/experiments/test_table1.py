"""Layers in one frame: equal sizes, tasks whose answers are known, the program to its end."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import layer_time, recall, sequences, table1_layers
from experiments.ledger import entries
from transformer_jax import presets
from transformer_jax.errors import UserError
from transformer_jax.models.families import family_of


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
    assert table1_layers.parse(["--full"]).seeds == 1
    assert table1_layers.parse(["--seeds", "2", "--full"]).said == " --full --seeds 2"
    for words, message in (
        ("--seeds 0", "--seeds 0 must be positive"),
        ("--data-dir x", "--data-dir x is of --full"),
    ):
        with pytest.raises(UserError, match=message):
            table1_layers.parse(words.split())


@pytest.mark.slow
def test_times_of_layers_are_measured_for_each():
    times, crossings = layer_time.time_table(1, lengths=(16,))
    [[length, rows, *milliseconds]] = times.rows
    assert (length, rows) == (16, 256) and all(m > 0 for m in milliseconds)
    assert [row[0] for row in crossings.rows] == list(layer_time.TIMED)[1:]


@pytest.mark.slow
def test_table1_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table1_layers, "SENTENCES", 2)
    monkeypatch.setattr(table1_layers, "DISTANCES", (8,))
    # Two rows of each, or the processes would take minutes to start.
    few = {name: recall.MODELS[name] for name in ("rnn", "self-attention, radius 16")}
    monkeypatch.setattr(table1_layers, "MODELS", few)
    monkeypatch.setattr(table1_layers, "TRANSLATED", (table1_layers.OURS, "lstm"))
    for part, seeds in (("translation", 1), ("memory", 2)):
        words = f"--only {part} --seeds {seeds} --steps 2 --jobs 2 --output {tmp_path}"
        monkeypatch.setattr("sys.argv", ["table1", *words.split()])
        table1_layers.main()
    shown = capsys.readouterr().out
    assert "| self-attention, radius 16 |" in shown
    assert "| equal time | lstm |" in shown
    found = entries(tmp_path)
    assert set(found) == {"table1-memory", "table1-translation"}
    runs = found["table1-translation"].details["runs"]
    assert {"BLEU length", "BLEU distance", "BLEU test"} <= runs[0].keys()
    results = list(tmp_path.glob("memory/*/result.json"))
    assert len(results) == 2 * (len(few) + 2)
    # What is finished is not done again.
    before = {path: path.stat().st_mtime_ns for path in results}
    table1_layers.main()
    assert {path: path.stat().st_mtime_ns for path in results} == before
    assert json.loads(results[0].read_text())["parameters"] > 90_000
