import pytest

from benchmarks import speed
from experiments import audit, table3_variations
from transformer_jax import presets

# ../shared/paper.md: with a table of 40,960 rows and biases on all projections, in millions.
GOLDEN = {
    "base": 65.11, "B-dk-16": 58.02, "B-dk-32": 60.38, "C-layers-2": 35.68, "C-layers-4": 50.40,
    "C-layers-8": 79.82, "C-dmodel-256": 27.85, "C-dmodel-1024": 167.94, "C-dff-1024": 52.52,
    "C-dff-4096": 90.30,
}  # fmt: skip


def test_parameters_are_the_papers_with_the_table_of_record():
    for row, millions in GOLDEN.items():
        count = audit.count_of_row(row, audit.ROWS_OF_RECORD) / 1e6
        assert count == pytest.approx(millions, abs=0.006)
        assert round(count) == table3_variations.PAPER[row].millions
    # Counted whole, not by adding rows of the table.
    model = presets.base(audit.ROWS_OF_RECORD)
    assert audit.count(model) == audit.count_of_row("base", audit.ROWS_OF_RECORD)


def test_vocabulary_sizes_that_fit():
    sizes = audit.fitting_tables(GOLDEN)
    assert audit.ROWS_OF_RECORD in sizes and audit.ROWS_OF_TEXT not in sizes
    for row in GOLDEN:
        for size in (sizes[0], sizes[-1]):
            found = round(audit.count_of_row(row, size) / 1e6)
            assert found == table3_variations.PAPER[row].millions
    outside = [
        [round(audit.count_of_row(row, size) / 1e6) for row in GOLDEN]
        for size in (sizes[0] - 1, sizes[-1] + 1)
    ]
    printed = [table3_variations.PAPER[row].millions for row in GOLDEN]
    assert printed not in outside
    assert not audit.fitting_tables([*GOLDEN, "big"])
    assert audit.ROWS_FOR_BIG in audit.fitting_tables(["big"])
    with pytest.raises(ValueError, match="no parameters of row E-learned"):
        audit.fitting_tables(["E-learned"])


def test_peaks():
    assert audit.peak("base") == pytest.approx(6.99e-4, rel=1e-3)
    assert audit.peak("big") == pytest.approx(4.94e-4, rel=1e-3)


def test_operations_against_the_formula():
    """Six a parameter and target token, forward and back, and the products of attention."""
    model = presets.base(audit.ROWS_OF_TEXT)
    attentions = 3 * model.num_layers  # the decoder has two
    products = 2 * 2 * audit.SENTENCE * model.d_model  # with keys, and with values
    formula = 6 * audit.count(model) + 3 * attentions * products
    # What benchmarks.speed divides by a device's peak.
    rows = speed.step_flops(model, 1, audit.SENTENCE, audit.SENTENCE)
    assert rows / audit.SENTENCE == pytest.approx(formula, rel=0.01)
    # Norms, softmax, dropout and the update are little beside them.
    assert 1.0 < audit.flops_per_token(model) / formula < 1.02


@pytest.mark.slow
def test_audit_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["audit", "--results-dir", str(tmp_path)])
    audit.main()
    shown = capsys.readouterr().out
    assert "| self-attention | operations a layer | n^2 d | n^2.0" in shown
    assert "| base: FLOPs, as hours x 8 x 9.5e12 | 3.3e+18 | 3.28e+18 |" in shown
    assert "0 of 11 parameter counts of table 3 fit 37,000 rows" in shown
    assert (tmp_path / "audit.json").exists()
