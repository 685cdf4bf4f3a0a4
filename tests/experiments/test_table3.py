import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from experiments import table3_variations as table3
from experiments import tasks
from experiments.ledger import write_json
from experiments.tasks import Task, run_all
from tests.experiments.test_claims import results
from transformer_jax import Transformer, presets
from transformer_jax.errors import UserError


@pytest.mark.slow
def test_table3_rows_build_at_both_scales(tmp_path):
    assert list(table3.PAPER) == list(presets.TABLE_3)
    tokens = jnp.ones((2, 3), jnp.int32)
    for row in table3.PAPER:
        small = table3.scaled_config(row, tmp_path, seed=3)
        whole = table3.full(row, None, seed=3)
        for name in ("d_model", "d_ff", "key_size", "value_size"):
            assert getattr(whole.model, name) == table3.WIDTH * getattr(small.model, name)
        assert whole.model.num_layers == table3.DEPTH * small.model.num_layers
        for name in ("num_heads", "dropout", "position_encoding"):
            assert getattr(whole.model, name) == getattr(small.model, name)
        assert whole.optimizer.label_smoothing == small.optimizer.label_smoothing
        assert whole.train.average_last == small.train.average_last == 1
        assert whole.train.seed == small.train.seed == 3
        assert whole.train.steps == (300_000 if row == "big" else 100_000)
        model = Transformer(small.model)
        shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
        logits = jax.eval_shape(model.apply, shapes, tokens, tokens)
        assert logits.shape == (2, 3, 1000)


def test_table3_rows_of_one_seed_are_paired(tmp_path):
    configs = (table3.scaled_config(row, tmp_path, 4) for row in ("base", "B-dk-16"))
    base, smaller = (config.identity_fields() for config in configs)
    assert {name for name in base if base[name] != smaller[name]} == {"model.d_k"}


def test_table3_text_is_short_with_disjoint_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(table3, "PAIRS", 40)
    monkeypatch.setattr(table3, "SCORED", 10)
    folder = table3.write_text(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {"lock"} == {"text-40-10-9"}
    train, validation = (
        (folder / f"{name}.en").read_text().splitlines() for name in ("train", "validation")
    )
    assert (len(train), len(validation)) == (40, 10)
    assert not set(train) & set(validation)
    assert max(len(line.split()) for line in train + validation) <= table3.LONGEST
    assert len((folder / "train.de").read_text().splitlines()) == 40


def test_table3_prints_the_papers_numbers():
    found = results("base", [2.0, 2.2], [20.0, 22.0]) + results("A-heads-1", [2.4, 2.5], [18, 19])
    rows = table3.rows_table(found, "BLEU").rows
    assert [row[:4] for row in rows] == [["base", 4.92, 25.8, 65], ["A-heads-1", 5.29, 24.9, None]]
    assert rows[0][4:] == [pytest.approx(2.1), pytest.approx(21.0), 1.0, 7, 2]
    claims = table3.claims_table(found, "BLEU").rows
    assert [row[1:4] for row in claims] == [
        ["A-heads-1", "ln PPL", pytest.approx(0.0725, abs=1e-4)],
        ["A-heads-1", "BLEU", pytest.approx(-0.9)],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows bse", "'bse' is not a row of Table 3; .*base"),
        ("--seeds 0", "--seeds 0 must be positive"),
        ("--jobs -1", "--jobs -1 must be positive"),
        ("--data-dir x", "--data-dir x is of --full"),
    ],
)
def test_table3_rejects_invalid_options(words, message):
    with pytest.raises(UserError, match=message):
        table3.parse(words.split())


def test_table3_reports_missing_runs():
    found = results("base", [4.9])
    told = table3.missing(found, is_full=True)
    assert "Updates: base 7 of 100,000" in told and "A-heads-1" in told.partition("Not run")[2]
    whole = [{**results(row, [4.9])[0], "steps": 300_000} for row in table3.PAPER]
    told = table3.missing(whole, is_full=True)
    assert "Updates" not in told and "Not run" not in told
    told = table3.missing(found, is_full=False)
    assert "0.036 ln PPL and 0.45 BLEU" in told and "in part by that choice" in told


@pytest.mark.slow
def test_table3_scaled_down_runs(tmp_path, monkeypatch, capsys):
    """Two rows by two processes; the same command again runs nothing."""
    monkeypatch.setattr(table3, "PAIRS", 1000)
    monkeypatch.setattr(table3, "SCORED", 3)
    words = f"--rows base B-dk-16 --seeds 1 --steps 2 --jobs 2 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["table3", *words.split()])
    table3.main()
    assert " 2 of 2  B-dk-16" in capsys.readouterr().out
    record = json.loads((tmp_path / "table3-small.json").read_text())
    runs = {r["row"]: r for r in record["details"]["runs"]}
    assert set(runs) == {"base", "B-dk-16"}
    assert runs["B-dk-16"]["parameters"] < runs["base"]["parameters"]
    assert runs["B-dk-16"]["perplexity"] != runs["base"]["perplexity"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.json")}
    assert len(before) == 2
    # One row again, of which nothing is run; the table keeps the other, and a third seed.
    done = tmp_path / "small" / "base-0" / "result.json"
    words = f"--rows base --seeds 1 --steps 2 --jobs 1 --output {tmp_path}"
    arguments = table3.parse(words.split())
    more = table3.task(arguments, "base", 2)
    more.folder.mkdir()
    (more.folder.parent / "base-0-old").mkdir()
    shutil.copy(done, more.folder.parent / "base-0-old")  # somebody's copy is no seed
    write_json(more.result, {**json.loads(done.read_text()), "identity": more.identity})
    monkeypatch.setattr("sys.argv", ["table3", *words.split()])
    table3.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [(row.split(" | ")[0], row.split(" | ")[-1]) for row in rows if "PPL" not in row] == [
        ("| base", "2 |"), ("| B-dk-16", "1 |"),
    ]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_table3_names_failed_runs(tmp_path, capfd):
    """Its text is not there: the process says so, and the command names the folder."""
    text = tmp_path / "nowhere"
    task = Task("base", 0, table3.scaled_config("base", text, 0, 2), tmp_path / "base-0", 3, "x")
    with pytest.raises(UserError, match=r"base-0 ended without a result \(exit code 1; messages"):
        run_all([task], 1, tmp_path / "compiled")
    assert "nowhere/train.en: No such file" in capfd.readouterr().err


def test_table3_results_belong_to_their_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(table3, "PAIRS", 20)
    monkeypatch.setattr(table3, "SCORED", 5)
    words = f"--rows base base --seeds 1 --output {tmp_path} --steps"

    def task(steps):
        [found] = table3.tasks(table3.parse([*words.split(), str(steps)]))
        return found

    first = task(2)
    assert first.cached_result() is None
    first.folder.mkdir(parents=True)
    write_json(first.result, {"identity": first.identity, "row": "base"})
    assert first.cached_result() == {"identity": first.identity, "row": "base"}
    assert task(2).cached_result() is not None
    for damaged in ("{", "{}", "[]"):
        first.result.write_text(damaged)
        with pytest.raises(UserError, match=r"result.json is damaged .*: take it away"):
            task(2).cached_result()
    write_json(first.result, {"identity": first.identity, "row": "base"})
    assert task(3).cached_result() is None  # more updates
    monkeypatch.setattr(table3, "SCORED", 6)
    assert task(2).cached_result() is None  # other text
    monkeypatch.setattr(table3, "SCORED", 5)
    monkeypatch.setattr(tasks, "BEAM", replace(tasks.BEAM, alpha=1.0))
    assert task(2).cached_result() is None


def test_table3_full_runs_use_their_options():
    arguments = table3.parse(["--full"])
    assert (arguments.seeds, arguments.steps, arguments.jobs) == (1, None, 1)
    found = table3.tasks(
        table3.parse(["--full", "--rows", "base", "big", "--seeds", "2", "--steps", "7"])
    )
    assert [(t.row, t.seed, t.config.train.steps) for t in found] == [
        ("base", 0, 7), ("base", 1, 7), ("big", 0, 7), ("big", 1, 7),
    ]  # fmt: skip
    assert {t.folder.parent.name for t in found} == {"full"}


def test_table3_reads_results_of_older_versions(tmp_path):
    """By the number that commit 5979451 gave, and in the folder that it wrote."""
    arguments = table3.parse(["--full", "--output", str(tmp_path)])
    expected = "ab3cd6f038da20d6d09e562e0fb91829317b2255aad20d7ff5e9aa5a44a2b783"
    assert table3.task(arguments, "base", 0).identity == expected
    assert table3.parse(["--output", str(tmp_path)]).folder == tmp_path / "small"
    (tmp_path / "twin").mkdir()
    assert table3.parse(["--output", str(tmp_path)]).folder == tmp_path / "twin"
