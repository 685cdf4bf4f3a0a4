"""Recurrent, convolutional and restricted models: what a Transformer's tests ask of it, of each."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from transformer_jax import Masks, ModelConfig, Segments, functional, presets
from transformer_jax.errors import UserError
from transformer_jax.models.convolutional import ConvolutionalDecoder, tokens_seen
from transformer_jax.models.decoder import Decoder
from transformer_jax.models.families import build_model, family_of
from transformer_jax.models.recurrent import (
    RecurrentDecoder,
    carry_from,
    make_cell,
    scan_steps,
)

V, S, T = 11, 7, 6
SOURCE = jnp.array([[4, 5, 6, 7, 8, 9, 1], [5, 4, 1, 0, 0, 0, 0], [9, 9, 4, 5, 1, 0, 0]])
TARGET = jnp.array([[6, 7, 8, 9, 9, 1], [4, 1, 0, 0, 0, 0], [5, 5, 6, 1, 0, 0]])
SMALL = {"vocab_size": V, "d_model": 12, "d_ff": 20, "num_heads": 3, "num_layers": 2}
MODELS = {
    name: ModelConfig(dropout=0.0, **{**SMALL, **fields})
    for name, fields in {
        "rnn": {"architecture": "rnn", "attention_score": "additive"},
        "lstm": {"architecture": "lstm", "attention_score": "additive"},
        "lstm, dot": {"architecture": "lstm", "attention_score": "unscaled", "start_id": 3},
        "convolutional": {"architecture": "convolutional"},
        "dilated": {"architecture": "convolutional", "dilation_base": 2, "kernel_width": 2,
                    "attention_score": "additive", "tied_embeddings": "none"},
        "learned": {"architecture": "convolutional", "position_encoding": "learned",
                    "max_positions": 16},
        "restricted": {"attention_radius": 1},
        "restricted, mask": {"attention_radius": 2, "kernels": "definition"},
    }.items()
}  # fmt: skip


def build(config, seed=0):
    """A model with parameters drawn at random: zero biases would hide mistakes."""
    model = build_model(config)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1])
        values = rng.normal(size=leaf.shape) * (fan_in**-0.5 if leaf.ndim > 1 else 0.1)
        return jnp.asarray(values + (path[-1].key == "gain"), leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
    return model, jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("name", MODELS)
def test_cached_step_equals_the_full_forward(name, dtype, tolerance):
    config = replace(MODELS[name], dtype=dtype)
    model, variables = build(config)
    expected = jax.nn.log_softmax(jax.jit(model.apply)(variables, SOURCE, TARGET))
    scale = 1.0 if dtype == "float32" else float(jnp.abs(expected).max())
    cache = jax.jit(lambda v: model.apply(v, SOURCE, 2, 2 * T, method="init_cache"))(variables)
    if config.attention_radius is not None:
        # Only the last r tokens and the newest have places.
        assert cache.history.shape == (6, 2 * (config.attention_radius + 1))

    @jax.jit
    def step(cache, tokens):
        cache, features = model.apply(variables, cache, tokens, method="decode_step")
        logits = model.apply(variables, features, method="project")
        return cache, jax.nn.log_softmax(logits[:, 0])

    tokens = jnp.full(6, config.start_id)
    for t in range(T):
        cache, found = step(cache, tokens)
        for beam in range(2):
            np.testing.assert_allclose(
                found.reshape(3, 2, V)[:, beam], expected[:, t], atol=tolerance * scale
            )
        tokens = jnp.repeat(TARGET[:, t], 2)


@pytest.mark.parametrize("name", ["lstm", "convolutional", "restricted"])
def test_resized_cache_decodes_on_as_before(name):
    config = MODELS[name]
    if name == "restricted":
        config = replace(config, attention_radius=4)
    model, variables = build(config)
    source = SOURCE[1:]
    cache = model.apply(variables, source, 2, 8, method="init_cache")
    step = jax.jit(lambda c, t: model.apply(variables, c, t, method="decode_step"))
    for token in (4, 5):
        cache, _ = step(cache, jnp.full(4, token))
    expected = step(cache, jnp.full(4, 7))[1]
    if name == "restricted":
        assert cache.history.shape == (4, 8) and (cache.history.sum(1) == 2).all()
    for width, places in ((5, 8), (5, 10), (9, 7)):  # the sources have 5 tokens at most
        other = model.apply(variables, cache, width, places, method="resize_cache")
        np.testing.assert_allclose(step(other, jnp.full(4, 7))[1], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["rnn", "lstm", "convolutional", "dilated", "restricted"])
def test_forward_is_independent_of_padding_and_batch(name):
    model, variables = build(MODELS[name])
    apply = jax.jit(model.apply)
    together = apply(variables, SOURCE, TARGET)
    padded = apply(variables, jnp.pad(SOURCE, ((0, 0), (0, 4))), jnp.pad(TARGET, ((0, 0), (0, 3))))
    # Of 3 and 2 tokens.
    alone = apply(variables, SOURCE[1:2, :3], TARGET[1:2, :2])
    for found in (together, padded):
        np.testing.assert_allclose(found[1, :2], alone[0], atol=2e-5)
    for b in (0, 2):
        t = int((TARGET[b] != 0).sum())
        np.testing.assert_allclose(padded[b, :t], together[b, :t], atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_causality_by_gradient(name):
    """logits[:, t] depend on target tokens before t and on none from t on."""
    model, variables = build(MODELS[name])
    weights = jnp.arange(1.0, V + 1)

    def out(noise):
        def intercept(function, args, kwargs, context):
            found = function(*args, **kwargs)
            # What the decoder is fed; the source has another length.
            is_target = context.method_name == "_sum" and found.shape[1] == T
            return found + noise[None] if is_target else found

        with nn.intercept_methods(intercept):
            return model.apply(variables, SOURCE[:1], TARGET[:1])[0] @ weights

    jacobian = jax.jit(jax.jacrev(out))(jnp.zeros((T, 12)))
    moved = np.abs(np.asarray(jacobian)).sum(-1) > 0  # [T outputs, T inputs]
    assert not moved[np.triu_indices(T, 1)].any()
    reach = {"restricted": 2, "restricted, mask": 4, "convolutional": 4, "learned": 4, "dilated": 3}
    expected = np.tril(np.ones((T, T), bool)) & ~np.tril(
        np.ones((T, T), bool), -reach.get(name, T) - 1
    )
    np.testing.assert_array_equal(moved, expected)


def test_convolutional_stack_sees_the_tokens_that_are_computed():
    config = replace(MODELS["dilated"], num_layers=3, kernel_width=3)
    decoder, target = ConvolutionalDecoder(config, cross=False), jnp.full((1, 20), 5)
    variables = jax.jit(decoder.init)(jax.random.key(0), target)

    def last(noise):
        def intercept(function, args, kwargs, context):
            found = function(*args, **kwargs)
            return found + noise[None, :, None] if context.method_name == "_sum" else found

        with nn.intercept_methods(intercept):
            return decoder.apply(variables, target, method="features")[0, -1].sum()

    seen = np.flatnonzero(jax.grad(last)(jnp.zeros(20)))
    assert 20 - seen.min() == tokens_seen(config) == 1 + 2 * (1 + 2 + 4)


@pytest.mark.parametrize(
    "radius, kernels",
    [
        (2, "compact"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((1, "compact"), (4, "blockwise"))
        ),
    ],
)
def test_blocks_of_a_window_equal_its_mask(radius, kernels):
    """Value and gradient, with padding, further masks, and sentences packed in one row."""
    small = replace(MODELS["restricted"], attention_radius=radius, num_layers=1)
    configs = [replace(small, kernels=each) for each in ("definition", kernels)]
    params = build(configs[0])[1]["params"]

    rng = np.random.default_rng(1)
    masks = Masks(*(jnp.asarray(rng.random((3, 1, n, n)) < 0.7) for n in (S, T)))
    packed = Segments(
        jnp.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0], [1, 1, 2, 2, 2, 0, 0]]),
        jnp.array([[1, 1, 2, 2, 2, 2], [1, 1, 0, 0, 0, 0], [1, 2, 2, 2, 0, 0]]),
    )

    def loss(params, config):
        total = 0.0
        for options in ({}, {"masks": masks}, {"segments": packed}):
            logits = build_model(config).apply({"params": params}, SOURCE, TARGET, **options)
            total += functional.label_smoothed_cross_entropy(logits, TARGET)[0]
        return total

    expected, found = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, config) for config in configs
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), found, expected)


def test_restricted_attention_collects_weights_of_its_window():
    config = MODELS["restricted"]
    model, variables = build(config)
    apply = jax.jit(model.apply, static_argnames="mutable")
    logits, collected = apply(variables, SOURCE, TARGET, mutable=("attention",))
    np.testing.assert_allclose(logits, apply(variables, SOURCE, TARGET), atol=2e-5)
    encoder, decoder, cross = family_of(config).attention(config, collected["attention"])
    assert cross[:, :, :, 0].all()
    i, j = np.indices((S, S))
    assert ((encoder[:, :, i, j] > 0) == (np.abs(i - j) <= 1)).all()
    i, j = np.indices((T, T))
    assert ((decoder[:, :, i, j] > 0) == ((i - j >= 0) & (i - j <= 1))).all()


@pytest.mark.parametrize("name", ["rnn", "lstm, dot", "convolutional", "dilated"])
def test_alignment_collects_weights_over_the_source(name):
    config = MODELS[name]
    model, variables = build(config)
    source, target = SOURCE[1:2], TARGET[2:3]
    _, collected = model.apply(variables, source, target, mutable=["attention"])
    encoder, decoder, cross = family_of(config).attention(config, collected["attention"])
    assert encoder.shape == (0, 1, S, S) and decoder.shape == (0, 1, T, T)
    layers = config.num_layers if config.architecture == "convolutional" else 1
    assert cross.shape == (layers, 1, T, S)
    np.testing.assert_allclose(cross.sum(-1), 1, rtol=1e-5)
    assert not cross[..., 3:].any()  # padding


def test_lstm_with_constant_gates_is_an_elman_network():
    """Forget gate 0, the others 1: h' = tanh(tanh(x W + h U + b)), over several steps of the cell
    that the family makes."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    config = ModelConfig(architecture="lstm", d_model=4, num_heads=1)
    elman = nn.SimpleCell(4, activation_fn=lambda x: jnp.tanh(jnp.tanh(x)))
    h = jnp.zeros((3, 4))
    params = elman.init(jax.random.key(0), h, x[:, 0])["params"]
    params["i"]["bias"] = jnp.asarray(rng.normal(size=4), jnp.float32)
    nothing = jnp.zeros((4, 4))
    gates = {
        **{f"i{gate}": {"kernel": nothing} for gate in "ifo"},
        "hi": {"kernel": nothing, "bias": jnp.full(4, 100.0)},
        "hf": {"kernel": nothing, "bias": jnp.full(4, -100.0)},
        "ho": {"kernel": nothing, "bias": jnp.full(4, 100.0)},
        "ig": {"kernel": params["i"]["kernel"]},
        "hg": {"kernel": params["h"]["kernel"], "bias": params["i"]["bias"]},
    }
    expected = []
    for t in range(x.shape[1]):
        h, _ = elman.apply({"params": params}, h, x[:, t])
        expected.append(h)

    class Recurrence(nn.Module):
        @nn.compact
        def __call__(self, x):
            cell = make_cell(config, 4)
            empty = carry_from(config, jnp.zeros((len(x), 4)))
            return scan_steps(lambda cell, carry, x: cell(carry, x), cell, empty, x)[1]

    variables = Recurrence().init(jax.random.key(0), x)
    [name] = variables["params"]
    shapes = jax.tree.map(jnp.shape, nn.unbox(variables["params"][name]))
    assert shapes == jax.tree.map(jnp.shape, gates)
    found = Recurrence().apply({"params": {name: gates}}, x)
    np.testing.assert_allclose(found, jnp.stack(expected, 1), atol=1e-6)


@pytest.mark.parametrize("decoder, name", [
    (RecurrentDecoder, "rnn"), (RecurrentDecoder, "lstm"), (ConvolutionalDecoder, "dilated"),
    (Decoder, "restricted"),
])  # fmt: skip
def test_decoder_alone_is_a_language_model(decoder, name):
    """Its cached steps equal its features, which read no source."""
    model = decoder(MODELS[name], cross=False)
    variables = jax.jit(model.init)(jax.random.key(0), TARGET)
    expected = model.apply(variables, TARGET, method="features")
    cache = model.apply(variables, SOURCE, 1, T, method="init_cache")
    tokens = jnp.zeros(3, jnp.int32)
    for t in range(T):
        cache, found = model.apply(variables, cache, tokens, method="decode_step")
        np.testing.assert_allclose(found[:, 0], expected[:, t], atol=1e-5)
        tokens = TARGET[:, t]


@pytest.mark.parametrize("name", MODELS)
def test_number_of_parameters_is_about_the_estimate(name):
    config = replace(MODELS[name], d_model=96, num_heads=2, num_layers=3)
    tokens = jnp.ones((1, 1), jnp.int32)
    shapes = jax.eval_shape(build_model(config).init, jax.random.key(0), tokens, tokens)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == pytest.approx(family_of(config).estimate_parameters(config), rel=0.1)


@pytest.mark.parametrize(
    "name, fields, message",
    [
        (
            "lstm",
            {"attention_radius": 2},
            "attention_radius 2 has no meaning for architecture lstm",
        ),
        ("rnn", {"cross_attention_radius": 1}, "cross_attention_radius 1 has no meaning"),
        ("rnn", {"norm_placement": "pre"}, "norm_placement 'pre' has no meaning"),
        ("convolutional", {"remat": "layers"}, "remat 'layers' has no meaning"),
        ("restricted", {"kernel_width": 5}, "kernel_width 5 has no meaning for architecture trans"),
        (
            "convolutional",
            {"kernel_width": 1},
            "kernel_width 1: a convolution of one token reads no",
        ),
        ("convolutional", {"target_vocab_size": 9}, "tied_embeddings 'all' is one table"),
    ],
)
def test_fields_that_mean_nothing_are_refused(name, fields, message):
    config = replace(MODELS[name], **fields)
    with pytest.raises(UserError, match=message):
        family_of(config).check(config)


@pytest.mark.parametrize("name", ["rnn", "lstm", "convolutional", "restricted"])
def test_presets_pass_their_own_checks(name):
    config = presets.run_config(name)
    family_of(config.model).check(config.model)
    assert getattr(presets, name)(50).vocab_size == 50


@pytest.mark.parametrize("name", ["rnn", "convolutional"])
def test_dropout_depends_on_the_sentence_alone(name):
    config = replace(MODELS[name], dropout=0.4)
    model, variables = build(config)
    rows, rngs = jnp.array([5, 2, 9]), {"dropout": jax.random.key(3)}
    apply = jax.jit(model.apply)
    found = apply(variables, SOURCE, TARGET, rows, rngs=rngs)
    order = jnp.array([2, 0, 1])
    others = apply(variables, SOURCE[order], TARGET[order], rows[order], rngs=rngs)
    np.testing.assert_allclose(others, found[order], atol=1e-5)
    assert not np.allclose(found, apply(variables, SOURCE, TARGET), atol=1e-2)
