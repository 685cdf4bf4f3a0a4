"""Functions with gradients of their own, against NumPy, the definitions and what they may keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.functional import unchecked
from tests.functional.test_attention import DV, B, H, K, S, T, draw, each_head
from transformer_jax import functional as F
from transformer_jax.functional import kernels

ATTENTION = {
    "compact": F.compact_attention,
    "blockwise": F.blockwise_attention,  # one block
    "blocks of 2": functools.partial(F.blockwise_attention, block=2),  # some filled up
    "blocks of 1": functools.partial(F.blockwise_attention, block=1),
}
MASKS = {
    "none": lambda mask: None,
    "drawn": lambda mask: mask,
    "padding": lambda mask: mask[:, :, :1] | jnp.eye(S, dtype=jnp.bool_)[None, None, 1:2],
    "of each head": lambda mask: jnp.broadcast_to(mask, (B, H, T, S)) ^ jnp.eye(
        H, 1, dtype=jnp.bool_
    )[None, ..., None],
    "whole queries": lambda mask: mask[..., 1:2],
}  # fmt: skip


def value_and_gradients(attention, query, key, value, mask, scale=None):
    """The result, and the gradients of a sum of it with weights that differ."""

    def total(query, key, value):
        found = attention(query, key, value, mask, scale=scale)
        weights = jnp.arange(found.size, dtype=jnp.float32).reshape(found.shape) % 7 - 3
        return jnp.sum(found.astype(jnp.float32) * weights), found

    gradients, found = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    return found, *gradients


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("scale", [None, 1.0])
def test_kernels_match_numpy(name, scale):
    query, key, value, mask = draw()
    expected = each_head(
        lambda b, q, k, v: reference.attention(q, k, v, mask[b, 0], scale)[0], query, key, value
    )
    found = ATTENTION[name](query, key, value, mask, scale=scale)
    assert found.shape == (B, T, H, DV)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("masked", MASKS)
def test_kernels_gradients_equal_the_definition(name, masked):
    query, key, value, mask = draw()
    given = query, key, value, MASKS[masked](mask)
    expected = value_and_gradients(F.dot_product_attention, *given, 0.7)
    found = value_and_gradients(ATTENTION[name], *given, 0.7)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("name", ATTENTION)
def test_kernels_in_bfloat16_are_off_by_roundings_alone(name):
    """bfloat16 has 8 bits: each of the few roundings is off by 0.4% at most."""
    wide = draw()
    narrow = *(x.astype(jnp.bfloat16) for x in wide[:3]), wide[3]
    wide = *(x.astype(jnp.float32) for x in narrow[:3]), wide[3]
    exact = value_and_gradients(F.dot_product_attention, *wide)
    for a, b in zip(value_and_gradients(ATTENTION[name], *narrow), exact):
        assert a.dtype == jnp.bfloat16
        assert jnp.linalg.norm(a.astype(jnp.float32) - b) < 0.01 * jnp.linalg.norm(b)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kernels_without_keys_are_zero_with_finite_gradients(name, dtype):
    query, key, value, mask = draw(dtype=dtype)
    mask = mask.at[:, :, 1].set(False)
    with jax.debug_nans(True):
        found, *gradients = value_and_gradients(ATTENTION[name], query, key, value, mask)
    assert not found[:, 1].any() and found[:, 0].any()
    assert all(bool(jnp.isfinite(each.astype(jnp.float32)).all()) for each in gradients)
    assert not gradients[0][:, 1].any()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("poison", [1e30, 3e38])
def test_kernels_of_masked_keys_are_exactly_zero(name, poison):
    query, key, value, mask = draw()
    mask = mask.at[..., 4].set(False)
    expected = value_and_gradients(ATTENTION[name], query, key, value, mask)
    key, value = key.at[:, 4].set(1e30), value.at[:, 4].set(poison)
    found = value_and_gradients(ATTENTION[name], query, key, value, mask)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)
    assert not found[2][:, 4].any() and not found[3][:, 4].any()


@pytest.mark.parametrize("dtype, most", [(jnp.float32, 6), (jnp.bfloat16, 3)])
def test_compact_attention_keeps_few_bytes_a_weight(dtype, most):
    """What the backward pass holds beside its inputs and the result; the definition's is more."""
    length = 64
    query, key, value = (jnp.ones((1, length, 2, 4), dtype) for _ in range(3))
    mask = F.padding_mask(jnp.ones((1, length), jnp.int32))

    def kept(attention):
        _, backward = jax.vjp(lambda *given: attention(*given, mask), query, key, value)
        return sum(x.nbytes for x in jax.tree.leaves(backward)) / (2 * length**2)

    assert kept(F.compact_attention) < most < kept(F.dot_product_attention)


def arrays_within(jaxpr):
    """Shapes and dtypes of all that a program computes, in its inner programs, too."""
    for equation in jaxpr.eqns:
        yield from (each.aval for each in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from arrays_within(inner)


def test_blockwise_attention_never_has_all_weights():
    length, block = 96, 16
    query, key, value = (jnp.ones((1, length, 2, 4)) for _ in range(3))
    mask = F.padding_mask(jnp.ones((1, length), jnp.int32))

    def largest(attention):
        def total(*given):
            return attention(*given, mask).sum()

        program = jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(query, key, value)
        return max(each.size for each in arrays_within(program.jaxpr) if hasattr(each, "size"))

    assert largest(F.dot_product_attention) == 2 * length**2
    # Keys and values of one block and each query: no product of both lengths.
    assert largest(functools.partial(F.blockwise_attention, block=block)) == length * 2 * 4


def test_blockwise_attention_skips_blocks_behind_the_mask():
    """NaN shows what is computed: the blocks above the diagonal are not."""
    length = 6
    query, key, value = (jnp.ones((1, length, 1, 2)) for _ in range(3))
    mask = F.causal_mask(length)
    blocks = functools.partial(F.blockwise_attention, block=2)
    found = jax.jit(blocks)(query, key, value.at[:, 4:].set(jnp.nan), mask)
    assert bool(jnp.isfinite(found[:, :4]).all()) and bool(jnp.isnan(found[:, 4:]).all())


@pytest.mark.parametrize("function", [F.blockwise_attention, F.compact_attention])
def test_kernels_refuse_what_does_not_fit(function):
    query, key, value, mask = draw()
    function = unchecked(function)
    with pytest.raises(ValueError, match="key"):
        function(query, key[:1], value, mask)
    with pytest.raises(ValueError, match="the value has shape"):
        function(query, key, value[:, :1], mask)
    with pytest.raises(TypeError, match="masks are boolean"):
        function(query, key, value, mask.astype(jnp.int32))
    with pytest.raises(ValueError, match="must broadcast"):
        function(query, key, value, mask[..., :2])


def test_blockwise_attention_refuses_a_block_of_nothing():
    with pytest.raises(ValueError, match="block 0 must be positive"):
        F.blockwise_attention(*draw()[:3], block=0)


def test_cudnn_attention_refuses_what_cudnn_does_not_compute():
    query, key, value, mask = draw(dtype=jnp.bfloat16)
    attend = unchecked(F.cudnn_attention)
    with pytest.raises(TypeError, match="the query is float32: cuDNN"):
        attend(*draw()[:3], mask)
    with pytest.raises(ValueError, match="the value has shape"):
        attend(query, key, value, mask)
    with pytest.raises(ValueError, match="the heads are 4 wide"):
        attend(query, key, value[..., :K], mask)


@pytest.mark.parametrize("masked", [False, True])
def test_cudnn_attention_asks_for_what_cudnn_computes(monkeypatch, masked):
    """Its own function in the place of a GPU's: queries without keys are zeros all the same."""
    query, key, value, mask = (
        jnp.concatenate([x] * 2, -1) if x.dtype == jnp.bfloat16 else x
        for x in draw(dtype=jnp.bfloat16)
    )
    value, mask = value[..., : 2 * K], mask.at[:, :, 1].set(False) if masked else None
    plain, asked = jax.nn.dot_product_attention, []

    def attend(*given, implementation, **options):
        asked.append((implementation, options.get("mask"), [x.shape for x in given]))
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return plain(*given, **options)

    monkeypatch.setattr(kernels.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels.jax.nn, "dot_product_attention", attend)
    found = F.cudnn_attention(query, key, value, mask)
    [(implementation, given, shapes)] = asked
    assert implementation == "cudnn" and given.shape == (B if masked else 1, 1, T + 1, S + 1)
    # Its backward pass takes even lengths only.
    assert shapes == [(B, T + 1, H, 2 * K), *[(B, S + 1, H, 2 * K)] * 2]
    expected = F.dot_product_attention(query, key, value, mask)
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected.astype(jnp.float32), atol=0.02, rtol=0.02
    )
    assert not masked or not found[:, 1].any()


@pytest.mark.parametrize("function", [F.compact_attention, F.blockwise_attention])
def test_kernels_of_mixed_dtypes_give_gradients_of_their_own_and_the_result_of_the_definition(
    function,
):
    query, key, value, mask = draw()
    given = query.astype(jnp.bfloat16), key, value
    with jax.numpy_dtype_promotion("standard"):
        found, backward = jax.vjp(lambda *x: function(*x, mask), *given)
        assert found.dtype == F.dot_product_attention(*given, mask).dtype == jnp.float32
        assert [each.dtype for each in backward(found)] == [each.dtype for each in given]
        x, kernel, table = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4)), jnp.ones((5, 4))
        (found,), backward = jax.vjp(lambda *w: F.compact_linear(*w[:1], [w[1]], [w[2]]),
                                     x, kernel, jnp.ones(4))  # fmt: skip
        assert [each.dtype for each in backward((found,))] == [x.dtype, kernel.dtype, kernel.dtype]
        states = jnp.ones((1, 2, 4), jnp.bfloat16)
        found, backward = jax.vjp(F.compact_unembed, states, table)
        assert [each.dtype for each in backward(found)] == [states.dtype, table.dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("widths", [(4,), (4, 4, 4), (4, 6, 4), (6, 4)])
def test_compact_linear_equals_linear(widths):
    rng = np.random.default_rng(0)
    x, *given = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in [(2, 3, 5), *((5, width) for width in widths), *((n,) for n in widths)]
    )
    kernel, bias = given[: len(widths)], given[len(widths) :]

    def total(function):
        def value(x, kernels, biases):
            found = function(x, kernels, biases)
            return sum(jnp.sum(jnp.sin(each)) for each in found), found

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))(x, kernel, bias)

    def one_by_one(x, kernels, biases):
        return tuple(F.linear(x, *each) for each in zip(kernels, biases))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        total(F.compact_linear),
        total(one_by_one),
    )


def test_compact_linear_sums_the_gradient_of_a_bias_in_float32():
    rows = 25_000
    x, kernel = jnp.zeros((rows, 2), jnp.bfloat16), jnp.zeros((2, 3), jnp.bfloat16)

    def total(bias):
        return F.compact_linear(x, [kernel], [bias])[0].astype(jnp.float32).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.zeros(3)), rows)


def test_compact_linear_refuses_other_shapes():
    x, kernel = jnp.ones((2, 3)), jnp.ones((3, 4))
    apply = unchecked(F.compact_linear)
    with pytest.raises(ValueError, match="the kernel has shape"):
        apply(x, [kernel.T], [jnp.ones(3)])
    with pytest.raises(ValueError, match="the bias has shape"):
        apply(x, [kernel], [jnp.ones(3)])
    with pytest.raises(TypeError, match="input of linear"):
        apply(x.astype(jnp.int32), [kernel], [jnp.ones(4)])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_compact_unembed_equals_unembed_with_narrow_products(dtype):
    rng = np.random.default_rng(0)
    x, table = (jnp.asarray(rng.normal(size=s), dtype) for s in ((2, 3, 8), (11, 8)))

    def gradients(function):
        def total(x, table):
            logits = function(x, table)
            assert logits.dtype == jnp.float32
            return jnp.sum(jax.nn.logsumexp(logits, axis=-1) * jnp.arange(3.0)[None]), logits

        return jax.grad(total, argnums=(0, 1), has_aux=True)

    found, expected = (gradients(f)(x, table) for f in (F.compact_unembed, F.unembed))
    np.testing.assert_array_equal(found[1], expected[1])
    tolerance = 1e-6 if dtype == jnp.float32 else 0.05
    for a, b in zip(found[0], expected[0]):
        assert a.dtype == dtype
        a, b = (each.astype(jnp.float32) for each in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)
    program = str(jax.make_jaxpr(gradients(F.compact_unembed))(x, table))
    assert ("bf16[2,3,11]" in program) == (dtype == jnp.bfloat16)
