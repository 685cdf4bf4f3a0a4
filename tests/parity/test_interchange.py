"""The table of other engines: a small run from end to end, and gaps by hand."""

from dataclasses import replace

import numpy as np
import pytest

from experiments import interchange
from experiments.ledger import entries
from experiments.tasks import on_one_device
from tests.weights.models import LINES, make_translator
from transformer_jax import presets, train
from transformer_jax.decoding.inference import BatchDecoder

pytestmark = pytest.mark.parity
pytest.importorskip("transformers")
pytest.importorskip("ctranslate2")


def test_gap_is_that_of_the_first_difference():
    translator = make_translator()
    ours = BatchDecoder(translator.model, {"params": translator.params})
    source = translator.vocabulary.encode(LINES[0])
    mine, theirs = [5, 6, 7, 8], [5, 6, 9]
    [scored] = ours.score([source], [[5, 6, 7]])
    [other] = ours.score([source], [[5, 6, 9]])
    gap = interchange.first_gap(ours, source, mine, theirs)
    assert gap == pytest.approx(float(scored[2] - other[2]), abs=1e-5)
    # Where one of them ends, its token is that of the end.
    [ended] = ours.score([source], [[5, 6]])
    assert interchange.first_gap(ours, source, mine, [5, 6]) == pytest.approx(
        float(scored[2] - ended[2]), abs=1e-5
    )


def test_run_is_compared_with_every_engine(tmp_path, monkeypatch, capsys):
    config = presets.run_config("tiny")
    model = replace(config.model, d_model=32, d_ff=32, num_layers=1, num_heads=2)
    config = on_one_device(replace(config, model=model), "grammar/10k", 2, 0)
    run = train(config, tmp_path / "run", progress=False)
    monkeypatch.setattr(interchange, "DTYPES", ("float32", "int8"))
    words = f"--run-dir {run.folder} --sentences 4 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["interchange", *words.split()])
    interchange.main()
    assert "| huggingface, float32 |" in capsys.readouterr().out
    [table] = entries(tmp_path)["interchange"].tables
    found = {row[0]: row for row in table.rows}
    assert set(found) == {
        "huggingface, float32",
        "ctranslate2, float32",
        "ctranslate2, int8",
        "ours",
    }
    # A model that has learned nothing writes a hundred tokens, whose differences add up.
    assert float(found["ctranslate2, float32"][3]) < 1e-3 < float(found["ctranslate2, int8"][3])
    assert np.isfinite([float(row[7]) for row in table.rows]).all()
