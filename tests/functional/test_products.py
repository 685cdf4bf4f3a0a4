"""Products of bfloat16: rounded once, of one row as of several, and wide where a CPU wants it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Transformer, presets
from transformer_jax.functional import (
    cached_attention,
    compact_attention,
    compact_linear,
    compact_unembed,
)
from transformer_jax.functional.products import product, product_dtype

# Shapes of left and right, axes, and the same in NumPy.
PRODUCTS = {
    "matrices": ((4, 6), (6, 5), ((1,), (0,)), "ij,jk->ik"),
    "one row": ((1, 6), (6, 5), ((1,), (0,)), "ij,jk->ik"),
    "one row of a batch": ((1, 1, 6), (5, 6), ((2,), (1,)), "bti,vi->btv"),
    "kernels side by side": ((2, 3, 6), (6, 2, 5), ((2,), (0,)), "bti,ijk->btjk"),
    "one row, side by side": ((1, 1, 2, 6), (3, 2, 6), ((2, 3), (1, 2)), "btij,kij->btk"),
    "no row": ((6,), (6, 5), ((0,), (0,)), "i,ik->k"),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("result", [None, jnp.float32])
def test_products_of_bfloat16_are_rounded_once(name, result):
    left_shape, right_shape, axes, formula = PRODUCTS[name]
    rng = np.random.default_rng(0)
    left, right = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in (left_shape, right_shape)
    )
    expected = np.einsum(formula, *(np.asarray(x, np.float32) for x in (left, right)))
    found = jax.jit(lambda left, right: product(left, right, axes, result))(left, right)
    assert found.dtype == (result or jnp.bfloat16) and found.shape == expected.shape
    most = 1e-6 if result else 2**-8
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=most, atol=1e-5)
    wide = product(left.astype(jnp.float32), right.astype(jnp.float32), axes)
    np.testing.assert_allclose(wide, expected, rtol=1e-5, atol=1e-5)


def dots(rows):
    """(rows, dtype) of the results of the products in a traced product of bfloat16."""
    left, right = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((rows, 6), (6, 5)))
    axes = PRODUCTS["matrices"][2]
    traced = jax.make_jaxpr(lambda left, right: product(left, right, axes))(left, right)
    [found] = [e for e in traced.jaxpr.eqns if e.primitive.name == "dot_general"]
    return found.outvars[0].aval.shape[0], found.outvars[0].aval.dtype


def test_cpu_multiplies_bfloat16_where_the_result_is_float32(monkeypatch):
    """Accelerators write the narrow result at once."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert [dots(rows) for rows in (4, 1)] == [(4, jnp.float32), (2, jnp.float32)]
    assert product_dtype(jnp.bfloat16) == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [dots(rows) for rows in (4, 1)] == [(4, jnp.bfloat16), (1, jnp.bfloat16)]
    assert {product_dtype(dtype) for dtype in (jnp.float16, jnp.float32)} == {
        jnp.float16, jnp.float32,
    }  # fmt: skip


def dot_dtypes(function, *shapes):
    """Dtypes of the results of the products in a traced function of bfloat16."""
    given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]

    def found(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation.outvars[0].aval.dtype
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from found(inner)

    return list(found(jax.make_jaxpr(function)(*given).jaxpr))


def test_layers_multiply_as_a_cpu_wants(monkeypatch):
    """All products but the gradients of kernels and tables, which are sums over rows."""

    def attend(query, key, value):
        return jnp.sum(compact_attention(query, key, value).astype(jnp.float32))

    def project(x, kernel, bias):
        return jnp.sum(compact_linear(x, [kernel], [bias])[0].astype(jnp.float32))

    def unembed(x, table):
        return jnp.sum(compact_unembed(x, table))

    works = {  # function -> shapes, and how many products are gradients of kernels
        attend: ([(2, 3, 2, 4)] * 3, 0),
        project: ([(2, 3, 4), (4, 5), (5,)], 1),
        unembed: ([(2, 3, 4), (7, 4)], 1),
    }
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for function, (shapes, of_kernels) in works.items():
        gradient = jax.grad(function, argnums=tuple(range(len(shapes))))
        found = dot_dtypes(gradient, *shapes)
        assert found.count(jnp.bfloat16) == of_kernels < len(found), function


@pytest.mark.parametrize("backend, dtype", [("cpu", jnp.float32), ("gpu", jnp.bfloat16)])
def test_cache_lies_as_it_is_multiplied(monkeypatch, backend, dtype):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model = Transformer(replace(presets.tiny(vocab_size=20), dtype="bfloat16"))
    source = jnp.ones((2, 3), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), source, source)
    cache = jax.eval_shape(
        lambda variables: model.apply(variables, source, 2, 8, method="init_cache"), variables
    )
    arrays = jax.tree.leaves((cache.written, cache.memory))
    assert {array.dtype for array in arrays} == {jnp.dtype(dtype)}


def test_cache_may_be_wider_than_its_queries():
    rng = np.random.default_rng(1)
    query = jnp.asarray(rng.normal(size=(2, 1, 3, 4)), jnp.bfloat16)
    keys = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.bfloat16).astype(jnp.float32)
    values = jnp.asarray(rng.normal(size=(2, 3, 5, 4)), jnp.bfloat16).astype(jnp.float32)
    found = cached_attention(query, keys, values)
    assert found.dtype == jnp.bfloat16
    expected = cached_attention(query.astype(jnp.float32), keys, values)
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
