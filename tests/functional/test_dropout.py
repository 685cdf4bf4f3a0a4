import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import functional as F

rng = np.random.default_rng(0)


@pytest.mark.gpu
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_dropout_rate_and_scale(rate):
    x = jnp.ones((301, 333))
    out = np.asarray(F.dropout(x, rate, jax.random.key(1)))
    dropped = (out == 0).mean()
    # Five standard deviations of a binomial share.
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=3e-5)


def test_dropout_bits_are_independent():
    """Two decisions share one random word; neighbours must not agree more often than chance."""
    kept = np.asarray(F.dropout(jnp.ones(200_000), 0.5, jax.random.key(0))) > 0
    for shift in (1, 2):
        agree = (kept[:-shift] == kept[shift:]).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(kept.size)


def test_dropout_is_off_without_a_key():
    x = jnp.asarray(rng.normal(size=(3, 5)), jnp.bfloat16)
    assert F.dropout(x, 0.5, None) is x
    assert F.dropout(x, 0.0, jax.random.key(0)) is x
    assert F.dropout(x, 0.5, jax.random.key(0)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"dropout rate 1.0 is outside \[0, 1\)"):
        F.dropout(x, 1.0, jax.random.key(0))
