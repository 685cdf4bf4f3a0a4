import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import functional as F

rng = np.random.default_rng(0)


def test_embedding_scales_by_sqrt_d_model_and_zeroes_padding():
    table = jnp.asarray(rng.normal(size=(7, 16)), jnp.float32)
    tokens = jnp.array([[3, 0, 6]])
    found = F.embed(tokens, table)
    np.testing.assert_allclose(found[0, 0], 4 * table[3], rtol=1e-6)
    assert not found[0, 1].any()
    gradient = jax.grad(lambda t: F.embed(tokens, t).sum())(table)
    assert not gradient[0].any()
    assert gradient[6].any()


@pytest.mark.parametrize("token", [7, -1, -7])
def test_embedding_out_of_range_is_nan(token):
    """JAX would clip 7 and count -1 from the end."""
    found = F.embed(jnp.array([[3, token]]), jnp.ones((7, 16)))
    assert jnp.isfinite(found[0, 0]).all()
    assert jnp.isnan(found[0, 1]).all()
    assert not F.embed(jnp.array([[-100]]), jnp.ones((7, 16)), pad_id=-100).any()


def test_unembed_is_the_transposed_table():
    table = jnp.asarray(rng.normal(size=(7, 16)), jnp.bfloat16)
    x = jnp.asarray(rng.normal(size=(2, 3, 16)), jnp.bfloat16)
    logits = F.unembed(x, table)
    assert logits.dtype == jnp.float32
    expected = np.asarray(x, np.float32) @ np.asarray(table, np.float32).T
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
