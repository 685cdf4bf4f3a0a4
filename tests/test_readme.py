"""What the README and the pages on Python show runs as it is written there."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import OptimizerConfig, Transformer, functional, presets, warmup_schedule
from transformer_jax.data.builders import Grammar

ROOT = Path(__file__).parents[1]


def run_blocks(path):
    """Run the Python blocks of a page, one after the other, in one namespace."""
    text = (ROOT / path).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict = {}
    # A user has JAX's own settings.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(block, names)
    return len(blocks), names


def test_readme_python_runs():
    count, names = run_blocks("README.md")
    assert count == 1
    assert names["logits"].shape == (2, 5, 1000)
    assert names["found"].tokens.shape[:2] == (2, 1)


def test_library_page_runs(capsys):
    count, names = run_blocks("docs/library.md")
    assert count == 7
    # The attention function that a reader gives changes no logits.
    plain = Transformer(presets.tiny(vocab_size=1000))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = plain.apply(names["variables"], names["source"], names["target"])
    np.testing.assert_allclose(names["logits"], expected, rtol=1e-4, atol=1e-5)
    assert names["model"].attention_fn is functional.blockwise_attention
    assert names["found"].tokens.shape[:2] == (2, 1)
    assert names["states"].shape == (2, 7, 128)
    assert names["window"].shape == (1, 1, 7, 7)
    for name in ("adafactor", "adam_with_cosine"):
        optimizer = names[name](OptimizerConfig(), warmup_schedule(8, 4000))
        updates, _ = optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)), jnp.ones(3))
        assert jnp.isfinite(updates).all()
    assert int(names["state"].step) == 20
    records = [line for line in capsys.readouterr().out.splitlines() if "accuracy" in line]
    assert len(records) == 4 and records[0].startswith("{'step': 5, 'loss': ")


def test_faq_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Grammar, "SIZES", {"10k": 300})
    monkeypatch.setattr(Grammar, "HELD_OUT", 20)
    [device, *_] = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: [device])  # a user's CPU is one device
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    count, names = run_blocks("docs/faq.md")
    assert count == 4
    assert names["tokens"].shape == (1, 1, 58)
    assert names["vectors"].shape == (2, 32)
    # Padding has no part in a vector.
    [alone] = names["sentence_vectors"](names["translator"], ["A dog runs."])
    np.testing.assert_allclose(names["vectors"][0], alone, atol=1e-5)
    assert names["found"].tokens.shape == (2, 2, 7) and (tmp_path / "runs/from-python").is_dir()
    assert "validation_loss" in capsys.readouterr().out


def test_readme_fits_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "experiments/RESULTS.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
