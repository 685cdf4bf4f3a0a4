import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import reference
from tests.functional import unchecked
from transformer_jax import functional as F

rng = np.random.default_rng(0)
LOGITS = jnp.asarray(rng.normal(size=(3, 5, 7)) * 3, jnp.float32)
TARGETS = jnp.asarray(rng.integers(0, 7, (3, 5)), jnp.int32)


@pytest.mark.gpu
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_matches_numpy(smoothing):
    loss, count = F.label_smoothed_cross_entropy(LOGITS, TARGETS, smoothing)
    expected, tokens = reference.smoothed_loss(np.asarray(LOGITS, float), TARGETS, smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert count == tokens < TARGETS.size


def test_loss_matches_fairseqs_form():
    """(1 - e - e_i) nll + e_i * (sum of all -log p), e_i = e / (V - 1)."""
    log_probs = np.asarray(jax.nn.log_softmax(LOGITS), float)
    nll = -np.take_along_axis(log_probs, np.asarray(TARGETS)[..., None], -1)[..., 0]
    part = 0.1 / 6
    expected = ((0.9 - part) * nll - part * log_probs.sum(-1))[np.asarray(TARGETS) != 0].sum()
    found, _ = F.label_smoothed_cross_entropy(LOGITS, TARGETS, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.gpu
def test_loss_gradient_is_softmax_minus_smoothed_target():
    gradient = jax.grad(lambda x: F.label_smoothed_cross_entropy(x, TARGETS, 0.1)[0])(LOGITS)
    wanted = np.full(LOGITS.shape, 0.1 / 6)
    np.put_along_axis(wanted, np.asarray(TARGETS)[..., None], 0.9, -1)
    expected = (np.asarray(jax.nn.softmax(LOGITS)) - wanted) * (np.asarray(TARGETS) != 0)[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@given(st.floats(0.01, 0.6), st.floats(-0.3, 0.3))
def test_loss_minimum_is_the_smoothed_distribution(smoothing, change):
    """At probability 1 - e on the target and e / (V - 1) elsewhere, and it is the entropy."""
    classes = 7
    wanted = np.full(classes, smoothing / (classes - 1))
    wanted[3] = 1 - smoothing
    target = jnp.array([[3]])
    best = jnp.asarray(np.log(wanted), jnp.float32)[None, None]
    at_best, _ = F.label_smoothed_cross_entropy(best, target, smoothing)
    np.testing.assert_allclose(at_best, -(wanted * np.log(wanted)).sum(), rtol=1e-5)
    beside, _ = F.label_smoothed_cross_entropy(best.at[..., 3].add(change), target, smoothing)
    assert beside >= at_best - 1e-6
    gradient = jax.grad(lambda x: F.label_smoothed_cross_entropy(x, target, smoothing)[0])(best)
    np.testing.assert_allclose(gradient, np.zeros((1, 1, classes)), atol=1e-6)


def test_loss_of_parts_adds_up():
    rows = (slice(0, 1), slice(1, 2), slice(2, 3))
    parts = [F.label_smoothed_cross_entropy(LOGITS[row], TARGETS[row]) for row in rows]
    loss, count = F.label_smoothed_cross_entropy(LOGITS, TARGETS)
    np.testing.assert_allclose(sum(part[0] for part in parts), loss, rtol=1e-6)
    assert sum(part[1] for part in parts) == count


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_keeps_only_logits_and_gradient(dtype):
    """From the decoder's output to its gradient: two [B, T, V] of float32, which the products with
    the table read, and room for parts of them."""
    x = jax.ShapeDtypeStruct((64, 32, 128), dtype)
    table = jax.ShapeDtypeStruct((10_000, 128), dtype)
    targets = jax.ShapeDtypeStruct((64, 32), jnp.int32)

    def loss(x, table, targets):
        return F.label_smoothed_cross_entropy(F.unembed(x, table), targets, 0.1)[0]

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(x, table, targets).compile()
    logits = 64 * 32 * 10_000 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2.2 * logits


def test_loss_rejects_mismatched_shapes():
    with pytest.raises(ValueError, match=r"targets \(1, 5\) do not fit logits \(3, 5, 7\)"):
        unchecked(F.label_smoothed_cross_entropy)(LOGITS, TARGETS[:1])
    with pytest.raises(ValueError, match="do not fit"):
        unchecked(F.token_log_probs)(LOGITS, TARGETS[:, :1])


@pytest.mark.parametrize("target", [7, -1, -7])
def test_loss_of_an_invalid_class_is_nan(target):
    """In JAX -1 would be the last class, as in NumPy."""
    targets = TARGETS.at[0, 0].set(target)
    assert jnp.isnan(F.token_log_probs(LOGITS, targets)[0, 0])
    assert jnp.isnan(F.label_smoothed_cross_entropy(LOGITS, targets)[0])


def test_loss_ignores_logits_at_padding():
    padded = jnp.where(TARGETS == 0, -100, TARGETS)
    assert (padded == -100).any()
    spoiled = jnp.where(
        (padded == -100)[..., None], jnp.array([jnp.inf, -jnp.inf] + 5 * [jnp.nan]), LOGITS
    )

    def loss(logits, targets, pad_id):
        return F.label_smoothed_cross_entropy(logits, targets, ignored=pad_id)

    expected = jax.value_and_grad(loss, has_aux=True)(LOGITS, TARGETS, 0)
    found = jax.value_and_grad(loss, has_aux=True)(spoiled, padded, -100)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_loss_makes_no_second_copy_of_the_logits():
    """Loss and gradient of 8 MB of logits need less than a tenth of that beside them."""
    logits = jax.ShapeDtypeStruct((8, 32, 8192), jnp.float32)
    targets = jax.ShapeDtypeStruct((8, 32), jnp.int32)

    def loss(logits, targets):
        return F.label_smoothed_cross_entropy(logits, targets, 0.1)[0]

    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, targets).compile()
    size = logits.size * 4
    memory = compiled.memory_analysis()
    assert memory.output_size_in_bytes >= size  # the gradient itself
    assert memory.temp_size_in_bytes < size / 10


def test_token_log_probs():
    expected = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(LOGITS)), np.asarray(TARGETS)[..., None], -1
    )[..., 0]
    np.testing.assert_allclose(F.token_log_probs(LOGITS, TARGETS), expected, atol=1e-6)


def test_loss_rejects_smoothing_out_of_range():
    with pytest.raises(ValueError, match=r"label smoothing 1.0 is outside \[0, 1\)"):
        F.label_smoothed_cross_entropy(LOGITS, TARGETS, 1.0)


def test_loss_in_blocks_is_equal_and_needs_less_memory():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(6, 7, 8)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(900, 8)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 3, (6, 7)) * rng.integers(0, 300, (6, 7)), jnp.int32)

    def loss(features, table, block):
        def sums(features, targets):
            return F.label_smoothed_cross_entropy(features @ table.T, targets, 0.1)

        total, count = F.sum_blocks(sums, block, features, targets)
        return 3.0 * total, count  # what comes back is not 1

    def gradients(block):
        function = jax.value_and_grad(lambda f, t: loss(f, t, block), (0, 1), has_aux=True)
        return jax.jit(function).lower(features, table).compile()

    whole = gradients(None)
    (expected, count), wanted = whole(features, table)
    for block in (5, 42, 64):  # 42 positions: with a rest, exactly, and more than there are
        blocks = gradients(block)
        (total, counted), found = blocks(features, table)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        assert counted == count
        for a, b in zip(found, wanted):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    few, all_logits = gradients(5), 42 * 900 * 4
    saved = whole.memory_analysis().temp_size_in_bytes - few.memory_analysis().temp_size_in_bytes
    assert saved > all_logits


def test_loss_ignores_any_given_class():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4)), jnp.float32)
    loss, count = F.label_smoothed_cross_entropy(logits, jnp.array([[0, -1, 2]]), 0.0, ignored=-1)
    log_probs = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(loss, -(log_probs[0, 0, 0] + log_probs[0, 2, 2]), rtol=1e-6)
    assert count == 2
