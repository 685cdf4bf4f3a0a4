import json

import pytest

from experiments import ledger
from experiments.ledger import Entry, Provenance, Table
from transformer_jax.errors import UserError


def entry(**changes):
    where = Provenance("python -m x", "abc1234", "x86_64", {"jax": "0.10.2"}, 12.34)
    table = Table("Rows", ["a|b", "paper", "ours"], [["x", 1234, 1.006], ["y", None, 2.0]])
    return Entry(**{
        "experiment": "x", "title": "An experiment", "where": where, "tables": [table],
        "missing": "a GPU", **changes,
    })  # fmt: skip


def test_ledger_renders_results():
    """RESULTS.md holds nothing that is not in results/*.json."""
    found = ledger.entries()
    assert len(found) >= 8
    text = (ledger.FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    assert text == ledger.markdown(found), "run python -m experiments.ledger"
    for each in found.values():
        assert each.missing and each.tables and each.where.commit and each.where.machine


def test_ledger_entry_round_trip(tmp_path):
    path = ledger.write_entry("one", entry(), tmp_path)
    assert path == tmp_path / "one.json"
    [(name, read)] = ledger.entries(tmp_path).items()
    assert name == "one"
    assert ledger.markdown({"one": read}) == ledger.markdown({"one": entry()})
    shown = ledger.markdown({"one": read})
    assert "| a\\|b | paper | ours |" in shown
    assert "| x | 1,234 | 1.01 |\n| y | - | 2.00 |" in shown
    assert "Commit abc1234 on x86_64; 12 s; jax 0.10.2." in shown
    assert "Missing to compare: a GPU" in shown


def test_ledger_rejects_non_results(tmp_path):
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        Table("T", ["a", "b", "c"], [[1, 2]])
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.write_entry("nan", entry(details={"loss": float("nan")}), tmp_path)
    assert not (tmp_path / "nan.json").exists()


def test_ledger_records_this_machine():
    here = Provenance.here("python -m x").with_duration(1.26)
    assert here.seconds == 1.3
    assert set(here.versions) == {"jax", "flax", "optax", "numpy", "sacrebleu"}
    assert "x cpu" in here.machine
    assert Provenance.here("x", commit="f00").commit == "f00"
    json.dumps(here.versions)


def test_ledger_rejects_invalid_entries(tmp_path, monkeypatch):
    for text in ("{", "{}", '{"where": {"who": 1}}', "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=r"bad.json is no entry of the ledger"):
            ledger.entries(tmp_path)
    before = (ledger.FOLDER / "RESULTS.md").stat().st_mtime_ns
    monkeypatch.setattr("sys.argv", ["ledger", "--help"])
    with pytest.raises(SystemExit):
        ledger.main()
    assert (ledger.FOLDER / "RESULTS.md").stat().st_mtime_ns == before
