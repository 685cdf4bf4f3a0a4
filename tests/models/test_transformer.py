from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from transformer_jax import ModelConfig, Transformer, presets
from transformer_jax import functional as F
from transformer_jax.models.norms import LayerNorm

V, S, T = 11, 7, 5
SMALL = ModelConfig(vocab_size=V, d_model=12, d_ff=20, num_heads=3, num_layers=2, dropout=0.0)
SOURCE = jnp.array([[4, 5, 6, 7, 8, 9, 1], [5, 4, 1, 0, 0, 0, 0], [9, 9, 4, 5, 1, 0, 0]])
TARGET = jnp.array([[6, 7, 8, 9, 1], [4, 1, 0, 0, 0], [5, 5, 6, 1, 0]])

OTHERS = {
    "pre-norm": {"norm_placement": "pre"},
    "d_k and d_v": {"d_k": 3, "d_v": 5},
    "learned": {"position_encoding": "learned", "max_positions": 16},
    "t2t positions": {"position_encoding": "t2t"},
    "no positions": {"position_encoding": "none"},
    "index": {"position_encoding": "index"},
    "plain": {"residual_connections": False, "scale_embeddings": False},
    "unscaled": {"attention_score": "unscaled"},
    "additive": {"attention_score": "additive"},
    "decoder tied": {"tied_embeddings": "decoder"},
    "untied": {"tied_embeddings": "none"},
    "bos": {"start_id": 3},
    "deep encoder": {"encoder_layers": 2, "activation": "gelu"},
    "imported": {"activation": "swish", "output_bias": True, "first_position": 2},
}
VARIANTS = {"paper": {}} | {name: {"num_layers": 1, **change} for name, change in OTHERS.items()}


def build(config, seed=0):
    """A model with parameters drawn at random: zero biases and unit gains would hide mistakes."""
    model = Transformer(config)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * (leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.1)
        return jnp.asarray(values + (path[-1].key == "gain"), leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def forward(model):
    return jax.jit(model.apply, static_argnames=("method", "mutable"))


def decoded(model, variables, cache, tokens):
    """The next state, and the logits [N, V] that are made of what a step gives."""
    cache, features = model.apply(variables, cache, tokens, method="decode_step")
    return cache, model.apply(variables, features, method="project")[:, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["paper", "index", "plain", "deep encoder", "imported"])
def test_forward_matches_the_numpy_reference(variant):
    config = replace(SMALL, **OTHERS.get(variant, {}))
    model, variables = build(config)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    logits = forward(model)(variables, SOURCE, TARGET)
    assert logits.dtype == jnp.float32
    for b in range(3):
        source = [t for t in SOURCE[b].tolist() if t]
        target = [t for t in TARGET[b].tolist() if t]
        expected = reference.transformer(params, config, source, target)
        np.testing.assert_allclose(logits[b, : len(target)], expected, atol=1e-5)


GOLDEN = {  # Table 3's column "params", in millions
    "base": 65, "B-dk-16": 58, "B-dk-32": 60, "C-layers-2": 36, "C-layers-4": 50, "C-layers-8": 80,
    "C-dmodel-256": 28, "C-dmodel-1024": 168, "C-dff-1024": 53, "C-dff-4096": 90,
}  # fmt: skip


def count(config):
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("row", GOLDEN)
def test_parameter_counts_of_table_3(row):
    config = replace(presets.base(vocab_size=40_960), **presets.TABLE_3[row][0])
    assert round(count(config) / 1e6) == GOLDEN[row]


def test_parameter_count_of_big():
    """213 million needs a table of about 36,000 rows, which fits no other row of the column."""
    assert round(count(presets.big(vocab_size=36_000)) / 1e6) == 213


@pytest.mark.parametrize("variant", VARIANTS)
def test_causality_by_gradient(variant):
    """logits[:, t] depend on every target token before t and on none from t on."""
    config = replace(SMALL, **VARIANTS[variant])
    model, variables = build(config)
    weights = jnp.arange(1.0, V + 1)

    def out(noise):
        """logits [T] summed with weights; `noise` [T, D] is added to what the decoder is fed."""
        with nn.intercept_methods(add_to_decoder_input(noise)):
            return model.apply(variables, SOURCE[:1], TARGET[:1])[0] @ weights

    jacobian = jax.jit(jax.jacrev(out))(jnp.zeros((T, config.d_model)))
    moved = np.abs(np.asarray(jacobian)).sum(-1)  # [T outputs, T inputs]
    # Input number t is the start symbol or target[t - 1]: it may reach logits t and later.
    np.testing.assert_array_equal(moved > 0, np.tril(np.ones((T, T), bool)))


def add_to_decoder_input(noise):
    """Interceptor: adds noise [T, D] to the embedded target."""

    def intercept(function, args, kwargs, context):
        out = function(*args, **kwargs)
        if context.method_name == "_sum" and out.shape[1] == T:
            return out + noise[None]
        return out

    return intercept


@pytest.mark.xdist_group("padding")  # what is compiled for one variant serves the next
@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=pytest.mark.slow if v == "pre-norm" else ()) for v in VARIANTS],
)
def test_forward_is_independent_of_padding_and_batch(variant):
    model, variables = build(replace(SMALL, **VARIANTS[variant]))
    apply = model.apply  # so many shapes: faster than to compile it for each
    together = apply(variables, SOURCE, TARGET)
    longer = jnp.pad(SOURCE, ((0, 0), (0, 4))), jnp.pad(TARGET, ((0, 0), (0, 3)))
    padded = apply(variables, *longer)
    for b in range(3):
        s, t = int((SOURCE[b] != 0).sum()), int((TARGET[b] != 0).sum())
        alone = apply(variables, SOURCE[b : b + 1, :s], TARGET[b : b + 1, :t])
        np.testing.assert_allclose(together[b, :t], alone[0], atol=2e-5)
        np.testing.assert_allclose(padded[b, :t], alone[0], atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "variant, dtype, tolerance",
    [
        *((variant, "float32", 1e-5) for variant in VARIANTS),
        # What rounds differently: the norms and the kinds of attention.
        *((v, "bfloat16", 2e-2) for v in ("paper", "pre-norm", "unscaled", "additive")),
    ],
)
def test_cached_step_equals_the_full_forward(variant, dtype, tolerance):
    config = replace(SMALL, dtype=dtype, **VARIANTS[variant])
    model, variables = build(config)
    expected = jax.nn.log_softmax(forward(model)(variables, SOURCE, TARGET))
    # Two rows a sentence: beams share the memory of their sentence. No place is left over, so that
    # reading or writing beyond the last would show.
    cache = jax.jit(lambda v: model.apply(v, SOURCE, 2, 2 * T, method="init_cache"))(variables)
    tokens = jnp.full(6, config.start_id)
    step = jax.jit(lambda c, t: decoded(model, variables, c, t))
    for t in range(T):
        cache, logits = step(cache, tokens)
        found = jax.nn.log_softmax(logits).reshape(3, 2, V)
        for beam in range(2):
            # bfloat16 rounds in proportion: 2^-8 of the largest log-probability a few times over.
            scale = 1.0 if dtype == "float32" else float(jnp.abs(expected).max())
            np.testing.assert_allclose(found[:, beam], expected[:, t], atol=tolerance * scale)
        tokens = jnp.repeat(TARGET[:, t], 2)


@given(st.permutations(range(S)))
@settings(max_examples=10)
def test_encoder_without_positions_is_permutation_equivariant(order):
    model, variables = build(replace(SMALL, position_encoding="none"))
    order = jnp.array(order)
    encode = forward(model)
    memory = encode(variables, SOURCE[:1], method="encode")
    permuted = encode(variables, SOURCE[:1, order], method="encode")
    np.testing.assert_allclose(permuted, memory[:, order], atol=1e-5)


def test_encoder_with_positions_is_not_permutation_equivariant():
    model, variables = build(SMALL)
    memory = forward(model)(variables, SOURCE[:1], method="encode")
    flipped = forward(model)(variables, SOURCE[:1, ::-1], method="encode")
    assert not np.allclose(flipped, memory[:, ::-1], atol=1e-2)


def test_index_is_seen_behind_layer_norm():
    """A number added to every feature would be taken away by the first norm."""
    logits = []
    for encoding in ("index", "none"):
        config = replace(SMALL, position_encoding=encoding, norm_placement="pre")
        model, variables = build(config)
        logits.append(forward(model)(variables, SOURCE, TARGET))
    assert not np.allclose(*logits, atol=1e-2)


def test_positions_are_added_before_the_sum_is_rounded():
    """In bfloat16 the sinusoids of positions far from the start are those of their neighbours."""
    config = replace(SMALL, d_model=16, num_heads=2, dtype="bfloat16")
    model = Transformer(config)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(V, 16)), jnp.float32)
    positions = F.sinusoids(600, 16)
    tokens = jnp.full((1, 600), 5)
    variables = build(config)[1]
    found = model.bind({"params": {**variables["params"], "embedding": table}}).embedder._sum(
        "source", tokens, positions[None]
    )
    expected = (table[5][None] * 4 + positions).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found[0], expected)


def test_norm_epsilon_is_the_configured_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 12)), jnp.float32)
    norm = LayerNorm(replace(SMALL, norm_epsilon=0.5))
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_forward_rejects_mismatched_batches():
    model, variables = build(SMALL)
    with pytest.raises(ValueError, match="are not of one batch"):
        model.apply(variables, SOURCE[:2], jnp.concatenate([TARGET, TARGET])[:4])


def test_source_of_padding_gives_no_nan():
    model, variables = build(replace(SMALL, num_layers=1))
    with jax.debug_nans(True):
        gradients = jax.jit(
            jax.grad(lambda p: jnp.sum(model.apply({"params": p}, SOURCE * 0, TARGET) ** 2))
        )(variables["params"])
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))


def test_attention_weights_come_out_on_request():
    model, variables = build(SMALL)
    logits, state = model.apply(variables, SOURCE, TARGET, mutable=["attention"])
    np.testing.assert_array_equal(logits, model.apply(variables, SOURCE, TARGET))
    weights = state["attention"]
    for n in range(2):
        encoder = weights[f"encoder_{n}"]["self_attention"]["weights"]
        cross = weights[f"decoder_{n}"]["cross_attention"]["weights"]
        causal = weights[f"decoder_{n}"]["self_attention"]["weights"]
        assert encoder.shape == (3, 3, S, S)
        assert cross.shape == (3, 3, T, S)
        assert not encoder[1, :, :, 3:].any()
        assert not np.triu(np.asarray(causal), 1).any()
        np.testing.assert_allclose(cross.sum(-1), np.ones((3, 3, T)), atol=1e-5)


def test_initialisation_of_tensor2tensor():
    config = ModelConfig(vocab_size=4096, d_model=64, d_ff=96, num_heads=4, num_layers=1, d_v=24)
    variables = jax.jit(Transformer(config).init)(jax.random.key(0), SOURCE, TARGET)["params"]
    assert abs(float(variables["embedding"].std()) * 8 - 1) < 0.02

    def limits(kernel):
        return float(jnp.abs(kernel).max())

    def check(kernel, columns):
        limit = np.sqrt(6 / (kernel.shape[0] + columns))
        assert 0.97 * limit < limits(kernel) <= limit

    own, cross = (variables["decoder_0"][f"{kind}_attention"] for kind in ("self", "cross"))
    together = 64 + 64 + 96
    for name in ("query", "key", "value"):
        check(own[name]["kernel"], together)
    check(cross["query"]["kernel"], 64)
    check(cross["key"]["kernel"], 64 + 96)
    check(cross["value"]["kernel"], 64 + 96)
    for attention in (own, cross):
        check(attention["output"]["kernel"], 64)
    check(variables["encoder_0"]["feed_forward"]["kernel_in"], 96)
    check(variables["encoder_0"]["feed_forward"]["kernel_out"], 64)
    # Uniform, not merely bounded: the standard deviation is the limit over the root of three.
    kernel = variables["encoder_0"]["feed_forward"]["kernel_in"]
    assert abs(float(kernel.std()) / np.sqrt(6 / 160 / 3) - 1) < 0.03
    biases = [x for p, x in jax.tree_util.tree_leaves_with_path(variables) if "bias" in str(p[-1])]
    assert len(biases) > 20
    assert not any(bias.any() for bias in biases)


def test_initialisation_of_what_the_paper_varies():
    config = ModelConfig(vocab_size=64, d_model=64, d_ff=8, num_heads=4, num_layers=1,
                         position_encoding="learned", attention_score="additive")  # fmt: skip
    variables = jax.jit(Transformer(config).init)(jax.random.key(0), SOURCE, TARGET)["params"]
    assert abs(float(variables["position_table"].std()) * 8 - 1) < 0.02
    vector = variables["encoder_0"]["self_attention"]["vector"]
    limit = np.sqrt(6 / (16 + 1))  # a matrix of d_k rows and one column
    assert 0.85 * limit < float(jnp.abs(vector).max()) <= limit


def test_norms_of_post_norm_and_pre_norm():
    names = build(SMALL)[1]["params"].keys()
    assert names == {"embedding", "encoder_0", "encoder_1", "decoder_0", "decoder_1"}
    assert build(replace(SMALL, norm_placement="pre"))[1]["params"].keys() - names == {
        "encoder_norm", "decoder_norm"}  # fmt: skip


def test_start_symbol():
    """PAD's row never reaches the input: only a start_id of its own makes a row count."""

    def gradient_of_row(start_id, row):
        model, variables = build(replace(SMALL, start_id=start_id, tied_embeddings="none"))

        def total(table):
            params = {**variables["params"], "target_embedding": table}
            return jnp.sum(model.apply({"params": params}, SOURCE, TARGET) ** 2)

        return jax.jit(jax.grad(total))(variables["params"]["target_embedding"])[row]

    assert not gradient_of_row(0, 0).any()
    assert gradient_of_row(3, 3).any()


def test_bfloat16_computes_narrow_and_keeps_wide():
    model, variables = build(replace(SMALL, dtype="bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    memory = forward(model)(variables, SOURCE, method="encode")
    assert memory.dtype == jnp.bfloat16
    logits = forward(model)(variables, SOURCE, TARGET)
    assert logits.dtype == jnp.float32
    wide = forward(Transformer(SMALL))(variables, SOURCE, TARGET)
    assert 0 < float(jnp.abs(logits - wide).max() / jnp.abs(wide).max()) < 0.1


@pytest.mark.parametrize("places", [7, 8, 17])
def test_resized_cache_goes_on_as_before(places):
    """Smaller, as large and larger: what hypotheses have is kept, wherever it was."""
    model, variables = build(SMALL)
    cache = jax.jit(lambda v: model.apply(v, SOURCE, 2, 8, method="init_cache"))(variables)
    step = jax.jit(lambda c, t: decoded(model, variables, c, t))

    def taken(cache):
        return model.apply(variables, cache, method="places_taken").tolist()

    tokens = np.array([4, 5, 6, 7, 8, 4])
    for _ in range(3):
        cache, logits = step(cache, tokens)
    assert taken(cache) == [6, 6, 6]
    # The second hypothesis of each sentence is dropped for the first, whose tokens make room.
    first = np.repeat(np.arange(0, 6, 2), 2)
    cache = cache._replace(history=cache.history[first])
    assert taken(cache) == [3, 3, 3]
    cache, _ = step(cache, tokens)
    assert taken(cache) == [5, 5, 5]
    found = model.apply(variables, cache, S + 2, places, method="resize_cache")
    assert found.history.shape == (6, places) and taken(found) == [5, 5, 5]
    assert found.memory_mask.shape[-1] == S + 2
    assert not found.memory_mask[..., S:].any()
    (_, expected), (after, logits) = step(cache, tokens), step(found, tokens)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert taken(after) == [7, 7, 7]
