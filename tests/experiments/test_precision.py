"""bfloat16 beside float32: what is trained, and what the table says of it."""

from dataclasses import asdict
from pathlib import Path

import pytest

from experiments import precision, table1_layers
from experiments.ledger import Provenance
from transformer_jax.errors import UserError

BLEU = {("float32", 0): 30.0, ("float32", 1): 31.0, ("bfloat16", 0): 30.5, ("bfloat16", 1): 30.1}


def test_runs_differ_in_dtype_and_seed_alone():
    arguments = precision.parse(["--data", "captions", "--steps", "7"])
    works = precision.make_works(arguments)
    configs = [work.config for row in works.values() for work in row]
    assert [(c.model.dtype, c.train.seed) for c in configs] == list(BLEU)
    assert {c.train.steps for c in configs} == {7} and len({str(c.data) for c in configs}) == 1
    assert len({work.folder for row in works.values() for work in row}) == 4
    with pytest.raises(UserError, match="--seeds 0 must be positive"):
        precision.parse(["--data", "captions", "--seeds", "0"])


def test_table_holds_each_run_and_the_difference(monkeypatch):
    where = asdict(Provenance("", "", "", {}, 1.0))

    def find_speeds(works, jobs, output):
        [speeds] = works["speeds"]
        assert list(speeds.models) == ["float32", "bfloat16"]
        assert speeds.rows * speeds.length == 2048
        return {"speeds": [{"seconds": {"float32": 0.25, "bfloat16": 0.2}}]}

    def find_scores(works, jobs, output):
        return {
            dtype: [
                {"seed": w.seed, "perplexity": 7.0, "BLEU": BLEU[dtype, w.seed] - 1,
                 "BLEU test2016": BLEU[dtype, w.seed], "where": where}
                for w in works[dtype]
            ]
            for dtype in ("float32", "bfloat16")
        }  # fmt: skip

    monkeypatch.setattr(table1_layers, "find_all", find_speeds)
    monkeypatch.setattr(precision, "find_all", find_scores)
    entry = precision.compare_dtypes(precision.parse(["--data", str(Path("captions"))]))
    [table] = entry.tables
    assert [row[4] for row in table.rows[:-1]] == list(BLEU.values())
    assert table.rows[0] == ["float32", "0", 7.0, 29.0, 30.0, 4.0]
    assert table.rows[-1][2:] == pytest.approx([0, -0.2, -0.2, 1.25])
