"""What a checkpoint calls its run stays the same for ever, whatever fields are added."""

from dataclasses import dataclass, field, replace

import pytest

from transformer_jax import DataConfig, ModelConfig, RunConfig, TrainConfig
from transformer_jax.run.identity import identity, old_identities

# The defaults of all fields that decide the numbers of a run. None of them ever changes; a field
# that is new does by default what was done before it, and is added here.
DEFAULTS = {
    "data.batch_tokens": 25_000,
    "data.dataset": None,
    "data.direction": None,
    "data.max_length": 256,
    "data.max_batch_shapes": 12,
    "data.mixed_ratio": 1.0,
    "data.source_tag": None,
    "data.task": "translation",
    "data.text_normalization": "none",
    "data.vocabulary": "bpe",
    "data.word_splitting": "none",
    "model.activation": "relu",
    "model.architecture": "transformer",
    "model.decoder_layers": None,
    "model.encoder_layers": None,
    "model.first_position": 0,
    "model.output_bias": False,
    "model.attention_radius": None,
    "model.cross_attention_radius": None,
    "model.attention_score": "scaled",
    "model.attention_dropout": 0.0,
    "model.d_ff": 2048,
    "model.dilation_base": 1,
    "model.kernel_width": 3,
    "model.d_k": None,
    "model.d_model": 512,
    "model.d_v": None,
    "model.dropout": 0.1,
    "model.dtype": "float32",
    "model.max_positions": 1024,
    "model.norm_placement": "post",
    "model.normalization": "layer",
    "model.norm_epsilon": 1e-6,
    "model.num_heads": 8,
    "model.num_layers": 6,
    "model.position_encoding": "paper",
    "model.activation_dropout": 0.0,
    "model.residual_connections": True,
    "model.scale_embeddings": True,
    "model.start_id": 0,
    "model.target_vocab_size": None,
    "model.tied_embeddings": "all",
    "model.vocab_size": 37_000,
    "optimizer.accumulation_steps": 1,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.98,
    "optimizer.clip_norm": None,
    "optimizer.ema_decay": None,
    "optimizer.epsilon": 1e-9,
    "optimizer.label_smoothing": 0.1,
    "optimizer.frozen": (),
    "optimizer.logits_block": None,
    "optimizer.lr_factor": 1.0,
    "optimizer.peak_learning_rate": None,
    "optimizer.schedule": "paper",
    "optimizer.warmup_steps": 4000,
    "train.seed": 0,
}
OWN_FILES = RunConfig(data=DataConfig(train=("a", "b"), direction="fr-en"))


def test_identity_defaults_are_unchanged():
    assert RunConfig().identity_fields() == DEFAULTS


@pytest.mark.parametrize(
    "config, old",
    [
        (RunConfig(), "56337c5ea7ea87adac5aa30cb2e38a856e1946200bcf96574023f812193d8534"),
        (OWN_FILES, "9771b817b7b3a4fa4afe83d41829bcdde8b3f13402bca71bc4742fe5058f4522"),
        (OWN_FILES, "56337c5ea7ea87adac5aa30cb2e38a856e1946200bcf96574023f812193d8534"),
        (
            RunConfig(
                ModelConfig(d_model=64, norm_placement="pre"), data=DataConfig(dataset="grammar")
            ),
            "f289105a10d30cc182d513f12a10fd4af8b0fe667aab1a5e2ae487b1f1aec175",
        ),
    ],
)
def test_identity_of_version_0_1_0(config, old):
    """Computed there, at commit b872495, for a corpus whose fingerprint is "text"."""
    assert old in old_identities(config, "text")
    assert old not in old_identities(config, "another text")
    for other in (
        replace(config, train=TrainConfig(seed=1)),
        replace(config, model=replace(config.model, d_ff=64)),
    ):
        assert old not in old_identities(other, "text")


def test_identity_depends_on_non_default_fields():
    config = replace(RunConfig(), train=TrainConfig(seed=3))
    # echo -n '[{"train.seed": 3}, "text"]' | sha256sum
    expected = "0af6fbc82dba1cfa5b7f3355bc111aecad04e686092bddbd4c55c37d4d342c8b"
    assert identity(config, "text") == expected
    assert identity(OWN_FILES, "text") == identity(RunConfig(), "text")


def test_identity_ignores_new_fields_at_their_default():
    @dataclass(frozen=True)
    class NewModel(ModelConfig):
        depth_scale: float = 1.0

    @dataclass(frozen=True)
    class NewConfig(RunConfig):
        model: NewModel = field(default_factory=NewModel)

    plain, scaled = NewConfig(), NewConfig(NewModel(depth_scale=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformer_jax.run.identity.RunConfig", NewConfig)
        assert identity(plain, "text") == identity(RunConfig(), "text")
        assert old_identities(plain, "text") == old_identities(RunConfig(), "text") != []
        assert identity(scaled, "text") != identity(plain, "text")
        assert old_identities(scaled, "text") == []
