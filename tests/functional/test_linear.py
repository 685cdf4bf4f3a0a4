import jax
import jax.numpy as jnp

from transformer_jax import functional as F


def test_linear_bias_and_its_gradient_are_float32():
    ones = jnp.ones((25_000, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1), jnp.bfloat16)

    def total(bias):
        return F.linear(ones, kernel, bias).astype(jnp.float32).sum()

    # In bfloat16 25,000 ones sum to 256, or to 8,192 pairwise.
    assert jax.grad(total)(jnp.zeros(1))[0] == 25_000
    small = F.linear(ones[:1], kernel, jnp.full(1, 2**-8))
    assert small.dtype == jnp.bfloat16
