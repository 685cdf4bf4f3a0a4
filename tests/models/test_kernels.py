"""A model computes the same with all its kernels, and asks for weights only where it must."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from transformer_jax import ModelConfig, Transformer, functional
from transformer_jax.config.checks import ConfigError
from transformer_jax.models.kernels import KERNELS, kernels_of, logits_block
from transformer_jax.models.layers import MultiHeadAttention

SMALL = ModelConfig(
    vocab_size=17, d_model=12, d_ff=20, num_heads=2, num_layers=1, dropout=0.0, kernels="definition"
)
SOURCE = jnp.array([[5, 6, 7, 1, 0], [8, 1, 0, 0, 0], [3, 4, 5, 6, 1]])
TARGET = jnp.array([[9, 4, 1, 0], [4, 5, 6, 1], [7, 1, 0, 0]])
ROWS = jnp.array([7, 3, 11])


def build(config, attention_fn=None):
    """The loss as a function of parameters, and initial ones."""
    model = Transformer(config, attention_fn=attention_fn)

    def loss(params):
        rngs = {"dropout": jax.random.key(1)}
        logits = model.apply({"params": params}, SOURCE, TARGET, ROWS, rngs=rngs)
        return functional.label_smoothed_cross_entropy(logits, TARGET)[0]

    return loss, initial_parameters(replace(config, kernels="definition", remat="none"))


@functools.cache
def initial_parameters(config):
    return jax.jit(Transformer(config).init)(jax.random.key(0), SOURCE, TARGET)["params"]


@functools.cache
def loss_and_gradients(config, attention_fn=None):
    loss, params = build(config, attention_fn)
    return jax.jit(jax.value_and_grad(loss))(params)


def assert_close(found, expected):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize("kernels", ["auto", "compact", "blockwise"])
@pytest.mark.parametrize(
    "fields", [{"d_k": 4}, {"attention_score": "unscaled", "norm_placement": "pre"}]
)
def test_kernels_give_equal_losses_and_gradients(kernels, fields):
    config = replace(SMALL, **fields)
    assert_close(loss_and_gradients(replace(config, kernels=kernels)), loss_and_gradients(config))


def test_kernels_are_those_of_their_names():
    names = {name: each.attention.__name__ for name, each in KERNELS.items()}
    assert names == {
        "definition": "dot_product_attention",
        "compact": "compact_attention",
        "blockwise": "blockwise_attention",
        "cudnn": "cudnn_attention",
    }
    assert kernels_of(ModelConfig()) is KERNELS["compact"]


def test_definition_projects_in_the_order_of_old_runs():
    """Keys and values, then queries: in this order their gradients add up, to the last bit."""
    module = MultiHeadAttention(SMALL, False)
    x = jax.random.normal(jax.random.key(0), (3, 5, SMALL.d_model))
    variables = module.init(jax.random.key(1), x, None, None)

    def gradient(apply):
        def total(x):
            return jnp.sum(jnp.sin(nn.apply(apply, module)(variables, x)))

        return jax.jit(jax.grad(total))(x)

    expected = gradient(lambda own, x: own(x, own.keys_values(x), None))
    np.testing.assert_array_equal(gradient(lambda own, x: own(x, None, None)), expected)


@pytest.mark.parametrize("remat", ["layers", "dots"])
def test_remat_gives_equal_losses_and_gradients(remat):
    config = replace(SMALL, kernels="compact", dropout=0.3)
    changed = replace(config, remat=remat)
    _, params = build(changed)
    computed = {}
    for name in ("none", "dots", "layers"):
        each, _ = build(replace(config, remat=name))
        computed[name] = str(jax.make_jaxpr(jax.grad(each))(params)).count(" dot_general[")
    # With "dots" what is computed again are scores and weights, with "layers" projections, too.
    assert computed["none"] < computed["dots"] < computed["layers"]
    assert_close(loss_and_gradients(changed), loss_and_gradients(config))


def test_attention_fn_is_called_in_every_layer():
    called = []

    def attend(query, key, value, mask=None, *, scale=None):
        called.append((query.shape[1], key.shape[1], scale))
        return functional.blockwise_attention(query, key, value, mask, scale=scale, block=2)

    config = replace(SMALL, attention_score="unscaled")
    loss, params = build(config, attend)
    called.clear()
    found = jax.jit(jax.value_and_grad(loss))(params)
    assert sorted(called) == sorted([(5, 5, 1.0), (4, 4, 1.0), (4, 5, 1.0)] * SMALL.num_layers)
    assert_close(found, loss_and_gradients(config))


@pytest.mark.parametrize("fields", [{"attention_dropout": 0.1}, {"attention_score": "additive"}])
def test_attention_fn_is_refused_where_weights_are_needed(fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"^{name} '?{value}'? needs .*leave one of the two out"):
        loss_and_gradients(replace(SMALL, **fields), functional.compact_attention)


@pytest.mark.parametrize(
    "fields", [{"attention_dropout": 0.5}, {"attention_score": "additive"}, {}]
)
def test_weights_are_formed_by_the_definition_where_asked_for(fields, monkeypatch):
    """With compact kernels dropout of weights, additive scores and collecting do as before."""
    definition = replace(SMALL, **fields)
    compact = replace(definition, kernels="compact")
    assert_close(loss_and_gradients(compact), loss_and_gradients(definition))
    collected = []
    for config in (definition, compact):
        variables = {"params": initial_parameters(definition)}
        model = Transformer(config)
        _, state = model.apply(variables, SOURCE, TARGET, mutable=["attention"])
        collected.append(state)
    assert_close(*collected)
    assert collected[1]["attention"]["decoder_0"]["cross_attention"]["weights"].shape == (
        3,
        2,
        4,
        5,
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"attention_dropout": 0.1, "kernels": "blockwise"},
            "'blockwise' forms no attention weights, which attention_dropout 0.1 needs",
        ),
        ({"attention_score": "additive", "kernels": "cudnn"}, "choose compact or definition"),
        ({"kernels": "cudnn", "d_k": 8}, "a multiple of 8 and at most 128, not 8 and 6"),
        ({"kernels": "cudnn"}, "at most 128, not 6 and 6"),
        ({"kernels": "cudnn", "d_model": 16}, "computes in 16 bits: add dtype bfloat16"),
        ({"kernels": "flash"}, "'flash' is not one of auto, definition, compact"),
        ({"remat": "all"}, "remat 'all' is not one of none, layers, dots"),
    ],
)
def test_kernels_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **fields)


@pytest.mark.parametrize(
    "positions, block",
    [(0, 1), (1, 1), (256, 256), (257, 129), (2048, 256), (4097, 257), (25_000, 1563)],
)
def test_logits_block_divides_a_batch_equally(positions, block):
    assert logits_block(ModelConfig(), None, positions) == block
    assert logits_block(ModelConfig(), 7, positions) == 7
    assert logits_block(SMALL, None, positions) is None
