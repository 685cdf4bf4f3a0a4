"""What README shows in Python runs as it is written there."""

import re
from pathlib import Path

import jax


def test_python_of_the_readme_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    # A user has JAX's own settings.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(block, names)
    assert names["found"].tokens.shape[:2] == (2, 1)
    assert names["memory"].shape == (2, 7, 128)
    assert int(names["state"].step) == 20
    records = [line for line in capsys.readouterr().out.splitlines() if "accuracy" in line]
    assert len(records) == 4 and records[0].startswith("{'step': 5, 'loss': ")
