import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    presets,
)
from transformer_jax.errors import UserError


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: ModelConfig(d_model=10, num_heads=4),
            "d_model 10 is not divisible by num_heads 4",
        ),
        (lambda: ModelConfig(dropout=1.0), r"dropout 1.0 is outside \[0, 1\)"),
        (lambda: ModelConfig(num_layers=0), "num_layers 0 must be positive"),
        (lambda: ModelConfig(norm="both"), "norm 'both' is none of post, pre"),
        (lambda: ModelConfig(d_model=9, num_heads=3), "d_model 9 is odd"),
        (lambda: ModelConfig(start_id=99, vocab_size=50), "start_id 99 is outside"),
        (lambda: OptimizerConfig(label_smoothing=-0.1), "label_smoothing -0.1 is outside"),
        (lambda: OptimizerConfig(warmup_steps=0), "warmup_steps 0 must be positive"),
        (lambda: DataConfig(batch_tokens=100), "batch_tokens 100 is smaller than one sentence"),
        (lambda: DataConfig(vocabulary="words"), "vocabulary 'words' is none of"),
        (lambda: TrainConfig(average_last=9), "average_last 9 is more than keep_last 5"),
        (lambda: presets.recipe("bse"), "did you mean 'base'"),
    ],
)
def test_errors_name_field_value_and_rule(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("name", presets.RECIPES)
def test_every_recipe_is_sound_and_survives_json(name):
    config = presets.recipe(name)
    assert RunConfig.from_json(config.to_json()) == config


def test_table_3_has_the_papers_rows():
    assert len(presets.TABLE_3) == 20
    assert presets.recipe("table3-D-smoothing-0.2").optimizer.label_smoothing == 0.2
    assert presets.recipe("table3-B-dk-16").model == replace(presets.base(), d_k=16)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON"),
        ("[]", "configuration must be an object"),
        ('{"model": {"d_modle": 3}}', "model has no field 'd_modle'"),
        ('{"model": {"d_model": "512"}}', "model.d_model must be of type int"),
        ('{"model": {"d_model": true}}', "model.d_model must be of type int"),
        ('{"data": {"train": ["a"]}}', "data.train must be a list of 2"),
        ('{"model": {"norm": "both"}}', "norm 'both'"),
    ],
)
def test_bad_json(text, message):
    with pytest.raises(UserError, match=message):
        RunConfig.from_json(text)


@given(st.integers(0, 2000), st.binary(max_size=3))
def test_any_edit_of_a_config_is_read_or_refused(place, change):
    text = RunConfig().to_json().encode()
    edited = text[:place] + change + text[place + 1 :]
    with contextlib.suppress(UserError):
        RunConfig.from_json(edited.decode("utf-8", "replace"))


def test_identity_leaves_paths_and_schedule_of_the_run_out():
    base = RunConfig()
    moved = replace(
        base, data=replace(base.data, train=("a", "b")), train=replace(base.train, steps=7)
    )
    assert base.identity() == moved.identity()
    assert base.identity() != replace(base, model=presets.tiny()).identity()
    assert "train.seed" in base.identity()
    assert json.dumps(base.identity())
