import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import reference
from tests.functional import unchecked
from transformer_jax import functional as F

B, T, S, H, K, DV = 2, 3, 5, 7, 4, 11  # distinct, so that no two axes can be mixed up


def draw(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = ((B, T, H, K), (B, S, H, K), (B, S, H, DV))
    query, key, value = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    mask = rng.random((B, 1, T, S)) < 0.6
    mask[:, :, 0] = [True, False, False, False, False]
    return query, key, value, jnp.asarray(mask)


def each_head(function, *tensors):
    return np.stack(
        [
            np.stack([function(b, *(np.asarray(x)[b, :, h] for x in tensors)) for h in range(H)], 1)
            for b in range(B)
        ]
    )


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_dot_product_attention_matches_numpy(scale, masked):
    query, key, value, mask = draw()
    expected = each_head(
        lambda b, q, k, v: reference.attention(q, k, v, mask[b, 0] if masked else None, scale)[0],
        query, key, value,
    )  # fmt: skip
    found = F.dot_product_attention(query, key, value, mask if masked else None, scale=scale)
    assert found.shape == (B, T, H, DV)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_additive_attention_matches_numpy():
    query, key, _, mask = draw()
    vector = jnp.asarray(np.random.default_rng(1).normal(size=(H, K)), jnp.float32)
    found = F.additive_attention_weights(query, key, vector, mask)
    for b in range(B):
        for h in range(H):
            expected = reference.additive_weights(
                *(np.asarray(x)[b, :, h] for x in (query, key)), np.asarray(vector)[h], mask[b, 0]
            )
            np.testing.assert_allclose(found[b, h], expected, atol=1e-6)


@pytest.mark.gpu
def test_dot_product_attention_matches_jax_nn():
    query, key, value, mask = draw()
    value = value[..., :K]  # jax.nn wants d_v = d_k
    assert bool(mask.any(-1).all())
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = jax.nn.dot_product_attention(query, key, value, mask=mask)
    np.testing.assert_allclose(
        F.dot_product_attention(query, key, value, mask), expected, atol=1e-6
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_attention_without_keys_is_zero_with_finite_gradients(dtype, transform):
    query, key, value, mask = draw(dtype=dtype)
    mask = mask.at[:, :, 1].set(False)
    arguments = (query, key, value, mask)
    if transform is jax.vmap:
        arguments = tuple(x[None] for x in arguments)

    def total(query, key, value, mask):
        out = F.dot_product_attention(query, key, value, mask)
        return jnp.sum(out.astype(jnp.float32) ** 2), out

    def gradients(*args):
        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*args)

    with jax.debug_nans(True):
        grads, out = transform(gradients)(*arguments)
    out = out.reshape(B, T, H, DV)
    assert not out[:, 1].any()
    assert out[:, 0].any()
    for gradient in grads:
        assert bool(jnp.isfinite(gradient.astype(jnp.float32)).all())
    assert not grads[0].reshape(query.shape)[:, 1].any()


def test_masked_softmax_equals_minus_infinity_fill():
    query, key, _, mask = draw()
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / np.sqrt(K)
    usual = jax.nn.softmax(jnp.where(mask, scores, -1e10), axis=-1)
    np.testing.assert_array_equal(F.attention_weights(query, key, mask), usual)


@pytest.mark.gpu
@pytest.mark.parametrize("poison", [1e30, -1e30])
def test_attention_of_masked_keys_is_exactly_zero(poison):
    query, key, value, mask = draw()
    mask = mask.at[..., 4].set(False)

    def out(query, key, value):
        return F.dot_product_attention(query, key, value, mask)

    def grads(key, value):
        return jax.grad(lambda q: jnp.sum(out(q, key, value) ** 2))(query)

    bad_key, bad_value = key.at[:, 4].set(poison), value.at[:, 4].set(poison)
    np.testing.assert_array_equal(out(query, bad_key, bad_value), out(query, key, value))
    np.testing.assert_array_equal(grads(bad_key, bad_value), grads(key, value))


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_attention_weights_sum_to_one(seed, spread):
    query, key, _, mask = draw(seed)
    sums = np.asarray(F.attention_weights(query * spread, key, mask).sum(-1))
    np.testing.assert_allclose(sums, np.broadcast_to(mask.any(-1), sums.shape), atol=1e-5)


def test_masked_softmax_with_huge_scores():
    """-1e30 is an honest score; a fill of -1e10 would lose to it and leak."""
    scores = jnp.full((1, 1, 1, 3), -1e30).at[..., 2].set(0.0)
    mask = jnp.array([[[[True, True, False]]]])
    np.testing.assert_array_equal(F.masked_softmax(scores, mask)[0, 0, 0], [0.5, 0.5, 0.0])


def test_attention_weights_keep_dtype_and_compute_in_float32():
    query, key, value, mask = draw(dtype=jnp.bfloat16)
    weights = F.attention_weights(query, key, mask)
    assert weights.dtype == jnp.bfloat16
    wide = F.attention_weights(query.astype(jnp.float32), key.astype(jnp.float32), mask)
    # Only the final rounding to 8 bits separates them.
    np.testing.assert_array_equal(weights, wide.astype(jnp.bfloat16))
    assert F.dot_product_attention(query, key, value, mask).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_additive_attention_without_keys_is_zero_with_finite_gradients(dtype):
    query, key, _, mask = draw(dtype=dtype)
    vector = jnp.ones((H, K), dtype)
    mask = mask.at[:, :, 1].set(False)

    def total(query, key, vector):
        weights = F.additive_attention_weights(query, key, vector, mask)
        return jnp.sum(weights.astype(jnp.float32) ** 2), weights

    with jax.debug_nans(True):
        grads, weights = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(query, key, vector)
    assert not weights[:, :, 1].any()
    assert all(bool(jnp.isfinite(g.astype(jnp.float32)).all()) for g in grads)
    assert not grads[0][:, 1].any()


@given(st.integers(0, 2**32 - 1), st.floats(-1e30, 1e30), st.sampled_from(["float32", "bfloat16"]))
def test_attention_ignores_masked_values(seed, poison, dtype):
    query, key, value, mask = draw(seed, jnp.dtype(dtype))
    mask = mask.at[..., 4].set(False)
    bad_key, bad_value = key.at[:, 4].set(poison), value.at[:, 4].set(poison)

    def out(query, key, value):
        return F.dot_product_attention(query, key, value, mask)

    def grads(key, value):
        total = lambda *args: jnp.sum(out(*args).astype(jnp.float32))  # noqa: E731
        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    np.testing.assert_array_equal(out(query, bad_key, bad_value), out(query, key, value))
    good, bad = grads(key, value), grads(bad_key, bad_value)
    np.testing.assert_array_equal(good[0], bad[0])
    for gradient in bad[1:]:
        assert not gradient[:, 4].any()


def test_attention_rejects_mismatched_and_integer_inputs():
    query, key, _, mask = draw()
    weights, softmax = unchecked(F.attention_weights), unchecked(F.masked_softmax)
    with pytest.raises(TypeError, match="mask is float32: masks are boolean"):
        softmax(jnp.zeros((B, H, T, S)), jnp.where(mask, 0.0, -1e9))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 5\): it must broadcast"):
        softmax(jnp.zeros((B, H, T, S)), mask[:, 0, 0])
    with pytest.raises(ValueError, match="differ in batch, heads or size"):
        weights(query, key[:, :, :1])
    with pytest.raises(ValueError, match="differ in batch, heads or size"):
        unchecked(F.additive_attention_weights)(query, key[..., :1], jnp.ones((H, K)))
    with pytest.raises(TypeError, match="query is int32"):
        weights(query.astype(jnp.int32), key)


def test_split_heads_takes_contiguous_columns():
    x = jnp.arange(2 * 3 * 8, dtype=jnp.float32).reshape(2, 3, 8)
    split = F.split_heads(x, 4)
    np.testing.assert_array_equal(split[1, 2, 3], x[1, 2, 6:8])
    np.testing.assert_array_equal(F.merge_heads(split), x)
    with pytest.raises(ValueError, match="width 8 is not divisible by num_heads 3"):
        F.split_heads(x, 3)


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cached_attention_equals_the_definition(scale, masked, dtype):
    rng = np.random.default_rng(5)
    query, key, value = (
        jnp.asarray(rng.normal(size=shape), dtype)
        for shape in ((2, 3, 4, 5), (2, 7, 4, 5), (2, 7, 4, 6))
    )
    mask = jnp.asarray(rng.random((2, 1, 3, 7)) < 0.5).at[0, :, 1].set(False) if masked else None
    expected = F.dot_product_attention(query, key, value, mask, scale=scale)
    keys, values = jnp.transpose(key, (0, 2, 3, 1)), jnp.swapaxes(value, 1, 2)
    found = F.cached_attention(query, keys, values, mask, scale=scale)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected.astype(jnp.float32),
        atol=1e-6 if dtype == "float32" else 2e-2,
    )  # fmt: skip
    if masked:
        np.testing.assert_array_equal(found[0, 1], 0)


def test_cached_attention_rejects_what_does_not_fit():
    attention = unchecked(F.cached_attention)
    query, keys, values = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 3, 4, 5)), jnp.ones((1, 3, 5, 4))
    with pytest.raises(ValueError, match="keys"):
        attention(query, jnp.swapaxes(keys, 2, 3), values)
    with pytest.raises(ValueError, match="values"):
        attention(query, keys, values[:, :, :4])
    with pytest.raises(TypeError, match="floating"):
        attention(query, keys, jnp.ones((1, 3, 5, 4), jnp.int32))
