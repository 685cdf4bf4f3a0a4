"""Where a model drops entries, and by which key."""

import importlib
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models.test_transformer import SMALL, SOURCE, TARGET, S, T, build, forward
from transformer_jax import functional as F
from transformer_jax.models import decoder, encoder, layers

DROPPING = replace(SMALL, num_layers=1, dropout=0.5, attention_dropout=0.3, activation_dropout=0.3)


def test_dropout_is_on_exactly_when_a_key_is_given():
    model, variables = build(replace(SMALL, dropout=0.5))
    plain = forward(model)(variables, SOURCE, TARGET)
    rngs = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(plain, forward(build(SMALL)[0])(variables, SOURCE, TARGET))
    dropped = forward(model)(variables, SOURCE, TARGET, rngs=rngs)
    assert not np.allclose(dropped, plain)
    again = jax.jit(model.apply)(variables, SOURCE, TARGET, rngs=rngs)
    np.testing.assert_array_equal(dropped, again)


@pytest.mark.parametrize(
    "rates, places",
    [
        # On two embeddings and on each sub-layer: two in an encoder layer, three in a decoder's.
        ({"dropout": 0.1}, 2 + 2 * 2 + 2 * 3),
        # On the weights of each attention: one in an encoder layer, two in a decoder's.
        ({"attention_dropout": 0.1}, 2 * 1 + 2 * 2),
        ({"activation_dropout": 0.1}, 2 + 2),
        ({}, 0),
    ],
)
def test_dropout_positions(rates, places):
    model, variables = build(replace(SMALL, **rates))
    trace = jax.make_jaxpr(
        lambda rng: model.apply(variables, SOURCE, TARGET, rngs={"dropout": rng})
    )(jax.random.key(0))
    assert len(re.findall(r"\brandom_bits\b", str(trace))) == places


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_dropout_operands(norm, monkeypatch):
    """Section 5.4 with a dropout that doubles: embeddings plus positions, and each sub-layer's
    output before it is added (and, in post-norm, normalised)."""
    model, variables = build(replace(SMALL, norm_placement=norm, dropout=0.5))
    monkeypatch.setattr(layers, "dropout", lambda x, rate, rng: x if rng is None else 2 * x)
    rngs = {"dropout": jax.random.key(0)}
    found = model.apply(variables, SOURCE, rngs=rngs, method="encode")

    parts = model.bind(variables)
    mask = F.padding_mask(SOURCE)
    x = 2 * (F.embed(SOURCE, variables["params"]["embedding"]) + F.sinusoids(S, 12)[None])
    for layer in parts.encoder.layers:
        own = layer.self_attention
        for norm_of, sublayer in (
            (layer.self_attention_norm, lambda y, own=own: own(y, own.keys_values(y), mask)),
            (layer.feed_forward_norm, layer.feed_forward),
        ):
            post = norm == "post"
            x = norm_of(x + 2 * sublayer(x)) if post else x + 2 * sublayer(norm_of(x))
    x = parts.encoder.encoder_norm(x) if norm == "pre" else x
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_dropout_of_weights_and_of_the_hidden_layer(monkeypatch):
    """Attention dropout falls on weights [B, H, T, S], ReLU dropout before the second matrix."""
    dropped = []

    def recorded(x, rate, rng):
        if rng is not None and rate:
            dropped.append((rate, x.shape))
        return x if rng is None else 2 * x

    monkeypatch.setattr(layers, "dropout", recorded)
    network = importlib.import_module("transformer_jax.functional.feed_forward")
    monkeypatch.setattr(network, "dropout", recorded)
    config = replace(SMALL, num_layers=1, attention_dropout=0.1, activation_dropout=0.2)
    model, variables = build(config)
    rngs = {"dropout": jax.random.key(0)}
    model.apply(variables, SOURCE, TARGET, rngs=rngs)
    heads = SMALL.num_heads
    assert dropped == [
        (0.1, (3, heads, S, S)), (0.2, (3, S, SMALL.d_ff)),
        (0.1, (3, heads, T, T)), (0.1, (3, heads, T, S)), (0.2, (3, T, SMALL.d_ff)),
    ]  # fmt: skip
    # Doubled before the product: the bias that follows it is added once.
    feed_forward = model.bind(variables).encoder.layers[0].feed_forward
    given = feed_forward.variables["params"]
    x = jnp.ones((3, S, SMALL.d_model))
    hidden = 2 * jax.nn.relu(x @ given["kernel_in"] + given["bias_in"][None, None])
    expected = hidden @ given["kernel_out"] + given["bias_out"][None, None]
    found = layers.FeedForward(config).apply({"params": given}, x, rngs=rngs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_of_rows_is_independent_of_batch():
    model, variables = build(DROPPING)
    rngs = {"dropout": jax.random.key(0)}
    rows = jnp.array([7, 3, 11])
    apply = forward(model)
    whole = apply(variables, SOURCE, TARGET, rows, rngs=rngs)
    order = jnp.array([2, 0])
    part = apply(variables, SOURCE[order], TARGET[order], rows[order], rngs=rngs)
    np.testing.assert_allclose(part, whole[order], atol=1e-5)
    others = apply(variables, SOURCE, TARGET, rows + 1, rngs=rngs)
    without = apply(variables, SOURCE, TARGET, rngs=rngs)
    for found in (others, without):
        assert not np.allclose(found, whole, atol=1e-2)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_dropout_is_equal_under_remat(generator, monkeypatch):
    model, variables = build(DROPPING)
    rngs = {"dropout": jax.random.key(0, impl=generator)}
    rows = jnp.array([7, 3, 11])

    def loss(params):
        return jnp.sum(model.apply({"params": params}, SOURCE, TARGET, rows, rngs=rngs) ** 2)

    expected = jax.jit(jax.value_and_grad(loss))(variables["params"])
    for module, name in ((encoder, "EncoderLayer"), (decoder, "DecoderLayer")):
        monkeypatch.setattr(module, name, nn.remat(getattr(layers, name)))
    assert "remat" in str(jax.make_jaxpr(loss)(variables["params"]))
    found = jax.jit(jax.value_and_grad(lambda p: loss(p)))(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_dropout_accepts_raw_keys():
    model, variables = build(DROPPING)
    found, expected = (
        forward(model)(variables, SOURCE, TARGET, rngs={"dropout": key})
        for key in (jax.random.PRNGKey(0), jax.random.key(0))
    )
    np.testing.assert_array_equal(found, expected)
    init = jax.jit(model.init)
    jax.tree.map(
        np.testing.assert_array_equal,
        init(jax.random.PRNGKey(0), SOURCE, TARGET),
        init(jax.random.key(0), SOURCE, TARGET),
    )
