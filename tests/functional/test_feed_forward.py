import jax
import jax.numpy as jnp
import numpy as np

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
