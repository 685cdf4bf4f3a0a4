"""Recurrent, convolutional and restricted models go through the job as a Transformer does."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_job import check_equal, configuration, read_jsonl, train_in_parts
from transformer_jax import Search, Translator, generate, presets
from transformer_jax.errors import UserError
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.train import train
from transformer_jax.visualization.attention import draw_head
from transformer_jax.visualization.page import attention_page

NAMES = ["rnn", "lstm", "convolutional", "restricted"]


def job(folder, name, **options):
    """The small job with the model of a preset, made smaller."""
    config = configuration(folder, **options)
    small = {"vocab_size": 100, "d_model": 16, "d_ff": 32, "num_heads": 2, "num_layers": 2}
    model = replace(getattr(presets, name)(), **small)
    if name == "restricted":
        model = replace(model, attention_radius=2)
    return replace(config, model=model)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "convolutional" else pytest.mark.slow) for n in NAMES],
)
def test_run_resumes_translates_and_is_shown(tmp_path, name):
    whole, parts = train_in_parts(job(tmp_path, name, steps=20), tmp_path, 11)
    records = [r for r in check_equal(whole, parts) if "loss" in r]
    assert records[-1]["loss"] < records[0]["loss"]
    assert "DAMAGED" not in describe_run(whole.folder)
    translator = Translator.load(whole.folder)
    sources = ["w1 w2 w3", "w5 w4", "w7", "w8 w9 w1 w2 w2"]
    beam = translator.translations(sources, Search(beam_size=3, n_best=3))
    for source, found in zip(sources, beam):
        # What the cached steps of the search add up is what the whole target gives.
        scores = translator.score([source] * 3, [each.text for each in found])
        np.testing.assert_allclose(scores, [each.log_prob for each in found], rtol=1e-4, atol=1e-4)
    greedy = translator.translate(sources, method="greedy")
    assert translator.translate(sources, beam_size=1) == greedy
    # One batch to its end finds what the continuous search does.
    ids = translator.vocabulary.encode(sources[0])
    result = generate(
        translator.model, translator.params, jnp.array([[*ids, 1]]), Search(method="greedy")
    )
    length = int(result.lengths[0, 0]) - 1
    written = translator.vocabularies.target.decode(result.tokens[0, 0, :length].tolist())
    assert written == greedy[0]
    maps = translator.attention("w1 w2 w3", "W3 W2")
    np.testing.assert_allclose(maps.cross.sum(-1), 1, rtol=1e-5)
    assert draw_head(maps, "cross", 1).axes and "W3" in attention_page(maps)
    if name != "restricted":
        with pytest.raises(UserError, match="no self-attention in its encoder: choose cross"):
            draw_head(maps, "encoder", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_mesh_and_pmap_equal_one_device(tmp_path, name):
    found = {}
    for parallel, mesh in (("jit", None), ("mesh", "data=2,fsdp=2"), ("pmap", None)):
        config = job(tmp_path, name, steps=8, log_every=1, parallel=parallel, mesh=mesh)
        config = replace(config, model=replace(config.model, dropout=0.0))
        run = train(config, tmp_path / parallel, progress=False)
        records = read_jsonl(run.folder / "metrics.jsonl")
        found[parallel] = [r["loss"] for r in records if "loss" in r]
    for parallel in ("mesh", "pmap"):
        np.testing.assert_allclose(found[parallel], found["jit"], rtol=1e-5)


def test_fields_without_meaning_are_refused_before_writing(tmp_path):
    config = job(tmp_path, "lstm")
    config = replace(config, model=replace(config.model, attention_radius=3))
    with pytest.raises(UserError, match="attention_radius 3 has no meaning for architecture lstm"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_what_the_command_trains(name):
    config = presets.run_config(name)
    assert config.model == getattr(presets, name)()
    assert config.train == presets.run_config("tiny").train
