import json
from dataclasses import asdict, replace

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
from transformer_jax.config.renamed import check_options
from transformer_jax.decoding.options import Search
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
        (
            lambda: ModelConfig(norm_placement="both"),
            "norm_placement 'both' is not one of post, pre",
        ),
        (lambda: ModelConfig(d_model=9, num_heads=3), "d_model 9 is odd"),
        (lambda: ModelConfig(start_id=99, vocab_size=50), "start_id 99 is outside"),
        (lambda: OptimizerConfig(label_smoothing=-0.1), "label_smoothing -0.1 is outside"),
        (lambda: OptimizerConfig(warmup_steps=0), "warmup_steps 0 must be positive"),
        (lambda: DataConfig(batch_tokens=100), "batch_tokens 100 is smaller than one sentence"),
        (lambda: DataConfig(vocabulary="words"), "vocabulary 'words' is not one of"),
        (lambda: TrainConfig(average_last=9), "average_last 9 is more than keep_last 5"),
        (lambda: ModelConfig(d_model=None), "d_model None must be of type int"),
        (lambda: ModelConfig(d_model=512.0), "d_model 512.0 must be of type int"),
        (lambda: OptimizerConfig(lr_factor=float("inf")), "lr_factor inf is not finite"),
        (lambda: OptimizerConfig(label_smoothing=None), "label_smoothing None must be of type"),
        (
            lambda: DataConfig(corpus="c", train=("a", "b")),
            "leave train, validation, treebank, mixed_text, mixed_treebank and dataset out",
        ),
        (
            lambda: DataConfig(treebank=("a", "b"), train=("c", "d")),
            "treebank brings its own text: leave train, validation, mixed_text and dataset out",
        ),
        (lambda: DataConfig(corpus="c", mixed_treebank="t"), "corpus c is prepared text"),
        (
            lambda: RunConfig(ModelConfig(position_encoding="learned", max_positions=64)),
            "max_length 256 is more than the max_positions 64",
        ),
        (lambda: presets.run_config("bse"), "did you mean 'base'"),
    ],
)
def test_config_errors_name_field_value_and_rule(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("name", presets.RUN_CONFIGS)
def test_presets_are_valid_and_survive_json(name):
    config = presets.run_config(name)
    assert RunConfig.from_json(config.to_json()) == config


# Table 3: N, d_model, d_ff, h, d_k, d_v, dropout, smoothing, thousands of steps.
TABLE_3 = {
    "base": (6, 512, 2048, 8, 64, 64, 0.1, 0.1, 100),
    "A-heads-1": (6, 512, 2048, 1, 512, 512, 0.1, 0.1, 100),
    "A-heads-4": (6, 512, 2048, 4, 128, 128, 0.1, 0.1, 100),
    "A-heads-16": (6, 512, 2048, 16, 32, 32, 0.1, 0.1, 100),
    "A-heads-32": (6, 512, 2048, 32, 16, 16, 0.1, 0.1, 100),
    "B-dk-16": (6, 512, 2048, 8, 16, 64, 0.1, 0.1, 100),
    "B-dk-32": (6, 512, 2048, 8, 32, 64, 0.1, 0.1, 100),
    "C-layers-2": (2, 512, 2048, 8, 64, 64, 0.1, 0.1, 100),
    "C-layers-4": (4, 512, 2048, 8, 64, 64, 0.1, 0.1, 100),
    "C-layers-8": (8, 512, 2048, 8, 64, 64, 0.1, 0.1, 100),
    "C-dmodel-256": (6, 256, 2048, 8, 32, 32, 0.1, 0.1, 100),
    "C-dmodel-1024": (6, 1024, 2048, 8, 128, 128, 0.1, 0.1, 100),
    "C-dff-1024": (6, 512, 1024, 8, 64, 64, 0.1, 0.1, 100),
    "C-dff-4096": (6, 512, 4096, 8, 64, 64, 0.1, 0.1, 100),
    "D-dropout-0.0": (6, 512, 2048, 8, 64, 64, 0.0, 0.1, 100),
    "D-dropout-0.2": (6, 512, 2048, 8, 64, 64, 0.2, 0.1, 100),
    "D-smoothing-0.0": (6, 512, 2048, 8, 64, 64, 0.1, 0.0, 100),
    "D-smoothing-0.2": (6, 512, 2048, 8, 64, 64, 0.1, 0.2, 100),
    "E-learned": (6, 512, 2048, 8, 64, 64, 0.1, 0.1, 100),
    "big": (6, 1024, 4096, 16, 64, 64, 0.3, 0.1, 300),
}


def test_presets_of_table_3_are_the_papers():
    found = {}
    for row in presets.TABLE_3:
        recipe = presets.run_config(f"table3-{row}")
        m = recipe.model
        found[row] = (m.num_layers, m.d_model, m.d_ff, m.num_heads, m.key_size, m.value_size,
                      m.dropout, recipe.optimizer.label_smoothing,
                      recipe.train.steps // 1000)  # fmt: skip
        assert m.position_encoding == ("learned" if row == "E-learned" else "paper")
        assert m.norm_placement == "post"
    assert found == TABLE_3


def test_config_defaults_are_the_papers():
    """Sections 3, 5.3, 5.4 and 6.1, and tensor2tensor where the paper is silent."""
    assert asdict(ModelConfig()) == {
        "architecture": "transformer", "vocab_size": 37_000, "target_vocab_size": None,
        "normalization": "layer", "d_model": 512, "d_ff": 2048, "num_heads": 8, "num_layers": 6,
        "d_k": None, "d_v": None, "dropout": 0.1, "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "norm_placement": "post", "norm_epsilon": 1e-6, "position_encoding": "paper",
        "max_positions": 1024,
        "attention_score": "scaled", "tied_embeddings": "all", "start_id": 0, "dtype": "float32",
        "kernels": "auto", "remat": "none",
        "residual_connections": True, "scale_embeddings": True,
        "activation": "relu", "encoder_layers": None, "decoder_layers": None,
        "first_position": 0, "output_bias": False,
        "attention_radius": None, "cross_attention_radius": None, "kernel_width": 3,
        "dilation_base": 1,
    }  # fmt: skip
    assert asdict(OptimizerConfig()) == {
        "lr_factor": 1.0, "warmup_steps": 4000, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-9,
        "label_smoothing": 0.1, "accumulation_steps": 1, "clip_norm": None, "ema_decay": None,
        "logits_block": None, "peak_learning_rate": None, "schedule": "paper", "frozen": (),
    }  # fmt: skip
    search = Search()
    assert (search.method, search.beam_size, search.length_penalty, search.alpha) == (
        "beam", 4, "gnmt", 0.6)  # fmt: skip
    assert search.extra_length == 50
    assert presets.run_config("base").train.average_last == 5
    assert presets.run_config("big").train.average_last == 20
    assert presets.run_config("base").data.batch_tokens == 25_000


def test_presets_of_later_t2t():
    changed = presets.t2t(presets.base())
    different = {n for n, v in asdict(changed).items() if v != asdict(presets.base())[n]}
    dropouts = {"attention_dropout", "activation_dropout"}
    assert different == {"norm_placement", "position_encoding", *dropouts}
    assert (changed.norm_placement, changed.position_encoding) == ("pre", "t2t")
    assert (changed.attention_dropout, changed.activation_dropout) == (0.1, 0.1)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON"),
        ("[]", "configuration must be an object"),
        ('{"model": {"d_modle": 3}}', "model has no field 'd_modle'"),
        ('{"model": {"d_model": "512"}}', "model.d_model must be of type int"),
        ('{"model": {"d_model": true}}', "model.d_model must be of type int"),
        ('{"data": {"train": ["a"]}}', "data.train must be a list of 2"),
        ('{"model": {"norm_placement": "both"}}', "norm_placement 'both'"),
    ],
)
def test_config_rejects_bad_json(text, message):
    with pytest.raises(UserError, match=message):
        RunConfig.from_json(text)


@given(st.integers(0, 2000), st.binary(max_size=3))
def test_config_edits_are_read_or_refused(place, change):
    text = RunConfig().to_json().encode()
    edited = text[:place] + change + text[place + 1 :]
    try:
        read = RunConfig.from_json(edited.decode("utf-8", "replace"))
    except UserError as error:
        assert str(error)
    else:
        assert RunConfig.from_json(read.to_json()) == read


def test_identity_ignores_paths_and_run_schedule():
    base = RunConfig()
    moved = replace(
        base, data=replace(base.data, train=("a", "b")), train=replace(base.train, steps=7)
    )
    assert base.identity_fields() == moved.identity_fields()
    assert base.identity_fields() != replace(base, model=presets.tiny()).identity_fields()
    assert "train.seed" in base.identity_fields()
    assert json.dumps(base.identity_fields())


def test_old_names_are_refused_as_options_and_accepted_as_values():
    for words in (
        ["attention", "--source", "x=--norm"],
        ["attention", "--source=--norm"],
        ["train", "--data-dir", "y=--positions"],
        ["translate", "--eos-rule", "t2t"],
        ["train", "norm"],
    ):
        check_options(words)
    for words, new in (
        (["--no-checkpoint-each-epoch"], "--no-checkpoint-every-epoch"),
        (["--eos_rule", "place"], "--eos-rule shrink"),
        (["--steps", "3", "--relu-dropout", "0.1"], "--activation-dropout"),
    ):
        with pytest.raises(UserError, match=f"is now {new}: write the new name"):
            check_options(words)
