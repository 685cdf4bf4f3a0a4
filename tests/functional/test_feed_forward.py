import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from transformer_jax import functional as F

rng = np.random.default_rng(0)


def test_feed_forward_matches_equation_2():
    shapes = ((2, 3, 5), (5, 7), (7,), (7, 5), (5,))
    arrays = [rng.normal(size=shape) for shape in shapes]
    x, w1, b1, w2, b2 = (jnp.asarray(array, jnp.float32) for array in arrays)
    expected = np.maximum(0, arrays[0] @ arrays[1] + arrays[2]) @ arrays[3] + arrays[4]
    np.testing.assert_allclose(F.feed_forward(x, w1, b1, w2, b2), expected, rtol=1e-5, atol=1e-5)
    dropped = F.feed_forward(x, w1, b1, w2, b2, dropout_rate=0.5, rng=jax.random.key(0))
    assert not np.allclose(dropped, expected)


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activations_are_those_of_their_formulas(name):
    x = np.linspace(-4, 4, 33, dtype=np.float32)[:, None]
    one, zero = jnp.ones((1, 1)), jnp.zeros(1)
    found = F.feed_forward(jnp.asarray(x), one, zero, one, zero, activation=name)
    expected = np.vectorize(reference.ACTIVATIONS[name])(x.astype(float))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_activation_must_be_known():
    one, zero = jnp.ones((1, 1)), jnp.zeros(1)
    with pytest.raises(ValueError, match="activation 'tanh' is not one of relu, swish, gelu"):
        F.feed_forward(one, one, zero, one, zero, activation="tanh")
