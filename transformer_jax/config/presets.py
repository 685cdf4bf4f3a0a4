"""Named configurations, each a difference from the paper's base model. Imports no jax.

`presets.base(vocab_size=37000)` is a ModelConfig; `presets.run_config("base")` the whole run.
"""

from collections.abc import Callable
from dataclasses import replace

from transformer_jax.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from transformer_jax.errors import UserError, did_you_mean

__all__ = [
    "RUN_CONFIGS",
    "TABLE_3",
    "base",
    "big",
    "convolutional",
    "lstm",
    "multi30k",
    "parsing",
    "restricted",
    "rnn",
    "run_config",
    "t2t",
    "tiny",
]

# Table 3: row name -> (change of the base model, change of its training).
TABLE_3: dict[str, tuple[dict, dict]] = {
    "base": ({}, {}),
    "A-heads-1": ({"num_heads": 1, "d_k": 512, "d_v": 512}, {}),
    "A-heads-4": ({"num_heads": 4, "d_k": 128, "d_v": 128}, {}),
    "A-heads-16": ({"num_heads": 16, "d_k": 32, "d_v": 32}, {}),
    "A-heads-32": ({"num_heads": 32, "d_k": 16, "d_v": 16}, {}),
    "B-dk-16": ({"d_k": 16}, {}),
    "B-dk-32": ({"d_k": 32}, {}),
    "C-layers-2": ({"num_layers": 2}, {}),
    "C-layers-4": ({"num_layers": 4}, {}),
    "C-layers-8": ({"num_layers": 8}, {}),
    "C-dmodel-256": ({"d_model": 256, "d_k": 32, "d_v": 32}, {}),
    "C-dmodel-1024": ({"d_model": 1024, "d_k": 128, "d_v": 128}, {}),
    "C-dff-1024": ({"d_ff": 1024}, {}),
    "C-dff-4096": ({"d_ff": 4096}, {}),
    "D-dropout-0.0": ({"dropout": 0.0}, {}),
    "D-dropout-0.2": ({"dropout": 0.2}, {}),
    "D-smoothing-0.0": ({}, {"label_smoothing": 0.0}),
    "D-smoothing-0.2": ({}, {"label_smoothing": 0.2}),
    "E-learned": ({"position_encoding": "learned"}, {}),
    "big": ({"d_model": 1024, "d_ff": 4096, "num_heads": 16, "dropout": 0.3}, {}),
}

# Section 5.2; every other row trains for the default 100,000.
BIG_STEPS = 300_000


def base(vocab_size: int = 37_000) -> ModelConfig:
    """The paper's base model.

    >>> base().num_layers, base().key_size
    (6, 64)
    """
    return ModelConfig(vocab_size=vocab_size)


def big(vocab_size: int = 37_000) -> ModelConfig:
    """The paper's big model, last row of Table 3.

    >>> big().d_model, big().key_size
    (1024, 64)
    """
    return replace(base(vocab_size), **TABLE_3["big"][0])


def multi30k(vocab_size: int = 10_000) -> ModelConfig:
    """The small model of Wu et al. (ACL 2021, arXiv 2105.14462) for 29,000 captions.

    >>> multi30k().num_layers, multi30k().d_model
    (4, 128)
    """
    return replace(base(vocab_size), num_layers=4, d_model=128, d_ff=256, num_heads=4, dropout=0.3)


def tiny(vocab_size: int = 1000) -> ModelConfig:
    """Two layers a side, trains in minutes on a laptop's CPU.

    >>> tiny().num_layers, tiny().vocab_size
    (2, 1000)
    """
    return replace(base(vocab_size), num_layers=2, d_model=128, d_ff=256, num_heads=4)


def rnn(vocab_size: int = 1000) -> ModelConfig:
    """Elman's network, two layers a side, with the attention of Bahdanau et al. (2015).

    >>> rnn().architecture, rnn().attention_score
    ('rnn', 'additive')
    """
    return replace(
        base(vocab_size),
        architecture="rnn",
        num_heads=1,
        num_layers=2,
        d_model=128,
        attention_score="additive",
    )


def lstm(vocab_size: int = 1000) -> ModelConfig:
    """The LSTM in the place of Elman's network, as `rnn`.

    >>> lstm().architecture
    'lstm'
    """
    return replace(rnn(vocab_size), architecture="lstm")


def convolutional(vocab_size: int = 1000) -> ModelConfig:
    """Convolutions with gates (Gehring et al. 2017), four layers a side, each of 3 tokens.

    >>> convolutional().num_layers, convolutional().kernel_width
    (4, 3)
    """
    return replace(
        base(vocab_size), architecture="convolutional", num_heads=1, num_layers=4, d_model=128
    )


def restricted(vocab_size: int = 1000) -> ModelConfig:
    """`tiny` with self-attention restricted to 4 tokens on either side (Table 1's last row).

    >>> restricted().attention_radius
    4
    """
    return replace(tiny(vocab_size), attention_radius=4)


def parsing(vocab_size: int = 12_000) -> ModelConfig:
    """A small model for constituency parsing, with a vocabulary of symbols for trees.

    It attends to the word that comes next, which the paper's finds by itself.

    >>> parsing().decoder_depth, parsing().target_vocab_size, parsing().cross_attention_radius
    (2, 512, 0)
    """
    return replace(
        tiny(vocab_size),
        num_layers=4,
        # Trees are twice as long as sentences, so that a decoder's layers are what takes time.
        decoder_layers=2,
        target_vocab_size=512,
        tied_embeddings="decoder",
        norm_placement="pre",  # as tensor2tensor has it
        dropout=0.2,
        cross_attention_radius=0,
    )


def t2t(model: ModelConfig) -> ModelConfig:
    """What tensor2tensor made of `model` four months after the paper: not the paper's.

    >>> t2t(base()).norm_placement
    'pre'
    """
    return replace(
        model,
        norm_placement="pre",
        position_encoding="t2t",
        attention_dropout=0.1,
        activation_dropout=0.1,
    )


def _multi30k_recipe() -> RunConfig:
    # Peak rate 0.005 after 2,000 updates of 2 x 4,096 tokens, as Wu et al. train.
    return RunConfig(
        multi30k(),
        OptimizerConfig(
            lr_factor=0.005 * (128 * 2000) ** 0.5, warmup_steps=2000, accumulation_steps=2
        ),
        DataConfig(batch_tokens=4096, max_batch_shapes=16),
        TrainConfig(
            steps=8000, evaluate_every=530, checkpoint_every=53, keep_last=10, average_last=10
        ),
    )


def _tiny_recipe() -> RunConfig:
    return RunConfig(
        tiny(),
        # Small batches and few shapes: on a CPU updates and compilations are what costs time.
        OptimizerConfig(warmup_steps=300, lr_factor=0.6),
        DataConfig(batch_tokens=1024, max_batch_shapes=4, max_length=64),
        TrainConfig(
            steps=1500, evaluate_every=300, checkpoint_every=75, keep_last=6, average_last=6
        ),
    )


def _parsing_recipe() -> RunConfig:
    return RunConfig(
        parsing(),
        OptimizerConfig(warmup_steps=1000, lr_factor=2.0),
        DataConfig(task="parsing", batch_tokens=2048, max_batch_shapes=6),
        TrainConfig(steps=15_000, evaluate_every=1500, checkpoint_every=500, best_metric="f1"),
    )


def _big_recipe() -> RunConfig:
    train = TrainConfig(steps=BIG_STEPS, checkpoint_every=600, keep_last=20, average_last=20)
    return RunConfig(model=big(), train=train)


def _table_3_recipe(row: str) -> RunConfig:
    # Table 3 is measured without averaging checkpoints; training follows the row's own model.
    model, optimizer = TABLE_3[row]
    steps = BIG_STEPS if row == "big" else TrainConfig.steps
    return RunConfig(
        model=replace(base(), **model),
        optimizer=replace(OptimizerConfig(), **optimizer),
        train=TrainConfig(steps=steps, average_last=1),
    )


RUN_CONFIGS: dict[str, Callable[[], RunConfig]] = {
    "tiny": _tiny_recipe,
    # The other layer types of Table 1, trained as tiny is.
    **{
        make.__name__: (lambda make=make: replace(_tiny_recipe(), model=make()))  # type: ignore[misc]
        for make in (rnn, lstm, convolutional, restricted)
    },
    "multi30k": _multi30k_recipe,
    "parsing": _parsing_recipe,
    # Every ten minutes of the paper's 12 hours would be 1,389 updates; these divide all of them, so
    # that the averaged checkpoints are equally far apart.
    "base": lambda: RunConfig(model=base(), train=TrainConfig(checkpoint_every=1250)),
    "big": _big_recipe,
    **{
        f"table3-{row}": (lambda row=row: _table_3_recipe(row))  # type: ignore[misc]
        for row in TABLE_3
    },
}


def run_config(name: str) -> RunConfig:
    """The whole run of a preset by name: model, optimizer, data and training.

    >>> run_config("multi30k").model.d_model
    128
    """
    if name not in RUN_CONFIGS:
        raise UserError(f"preset {name!r} is unknown; {did_you_mean(name, RUN_CONFIGS)}")
    return RUN_CONFIGS[name]()
