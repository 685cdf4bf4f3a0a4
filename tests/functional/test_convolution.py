import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from transformer_jax import functional as F

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 11, 3))
BIAS = RNG.normal(size=5)


@pytest.mark.parametrize("width, dilation", [(1, 1), (2, 1), (3, 1), (3, 2), (4, 3), (5, 4)])
@pytest.mark.parametrize("causal", [True, False])
def test_convolution_matches_the_loop(width, dilation, causal):
    kernel = RNG.normal(size=(width, 3, 5))
    found = F.convolution(
        *(jnp.asarray(x, jnp.float32) for x in (X, kernel, BIAS)), dilation=dilation, causal=causal
    )
    for b in range(2):
        expected = reference.convolution(X[b], kernel, BIAS, dilation, causal)
        np.testing.assert_allclose(found[b], expected, atol=2e-6)


def test_convolution_is_the_one_of_lax():
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 5)), jnp.float32)
    x = jnp.asarray(X, jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1,), [(4, 0)], rhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(
        F.convolution(x, kernel, jnp.zeros(5), dilation=2), expected, atol=2e-6
    )


def test_gated_linear_unit_matches_its_formula():
    x = RNG.normal(size=(2, 3, 8))
    expected = x[..., :4] / (1 + np.exp(-x[..., 4:]))
    np.testing.assert_allclose(
        F.gated_linear_unit(jnp.asarray(x, jnp.float32)), expected, rtol=2e-6, atol=1e-7
    )


@pytest.mark.parametrize("width, dilations", [(1, [1, 1]), (3, [1, 2]), (2, [1, 3, 1]), (4, [2])])
def test_receptive_field_is_that_of_the_gradient(width, dilations):
    kernel, length = jnp.ones((width, 1, 1)), 30

    def last(x):
        x = x[None, :, None]
        for dilation in dilations:
            x = F.convolution(x, kernel, jnp.zeros(1), dilation=dilation)
        return x[0, -1, 0]

    seen = np.flatnonzero(jax.grad(last)(jnp.ones(length)))
    assert length - seen.min() == F.receptive_field(width, dilations)


def test_convolution_refuses_a_dilation_below_1():
    with pytest.raises(ValueError, match="dilation 0 is less than 1"):
        F.convolution(jnp.ones((1, 3, 2)), jnp.ones((2, 2, 2)), jnp.ones(2), dilation=0)
