import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.functional import unchecked
from transformer_jax import functional as F

rng = np.random.default_rng(0)
X = jnp.asarray(rng.normal(3, 2, size=(8, 5, 6)), jnp.float32)
GAIN, BIAS = (jnp.asarray(rng.normal(size=6), jnp.float32) for _ in range(2))


@pytest.mark.gpu
def test_layer_norm_matches_numpy():
    expected = reference.layer_norm(
        np.asarray(X, np.float64).reshape(-1, 6), np.asarray(GAIN), np.asarray(BIAS)
    )
    np.testing.assert_allclose(F.layer_norm(X, GAIN, BIAS).reshape(-1, 6), expected, atol=1e-5)


def test_layer_norm_statistics_are_float32():
    """A mean of 1000 leaves bfloat16 three digits; the variance needs more."""
    offset = (X + 1000).astype(jnp.bfloat16)
    found = F.layer_norm(offset, jnp.ones(6), jnp.zeros(6))
    expected = F.layer_norm(offset.astype(jnp.float32), jnp.ones(6), jnp.zeros(6))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))


def test_layer_norm_of_integers_is_refused():
    with pytest.raises(TypeError, match="input of layer_norm is int32"):
        unchecked(F.layer_norm)(jnp.array([[1, 2, 4]]), jnp.ones(3), jnp.zeros(3))


def test_layer_norm_epsilon_is_inside_the_root():
    x = jnp.array([[1.0, -1.0]])
    found = F.layer_norm(x, jnp.ones(2), jnp.zeros(2), epsilon=3.0)
    np.testing.assert_allclose(found, [[0.5, -0.5]], rtol=1e-6)


def test_batch_norm_matches_numpy():
    mean, variance = F.batch_statistics(X)
    flat = np.asarray(X, np.float64).reshape(-1, 6)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-5)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    expected = expected * np.asarray(GAIN) + np.asarray(BIAS)
    found = F.batch_norm(X, mean, variance, GAIN, BIAS)
    np.testing.assert_allclose(found.reshape(-1, 6), expected, atol=1e-5)


def test_batch_statistics_leave_padding_out():
    mask = jnp.asarray(rng.random((8, 5)) < 0.5)
    mean, variance = F.batch_statistics(X, mask)
    kept = np.asarray(X)[np.asarray(mask)]
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, kept.var(0), rtol=1e-5)


def test_batch_statistics_over_devices_are_those_of_the_whole_batch():
    """Unequal padding on four devices: a mean of per-device means would differ."""
    mask = jnp.arange(8)[:, None] * jnp.ones((1, 5), jnp.int32) % 5 < jnp.arange(5)[None]
    whole = F.batch_statistics(X, mask)
    per_device = jax.pmap(
        lambda x, m: F.batch_statistics(x, m, axis_name="devices"), axis_name="devices"
    )(X.reshape(4, 2, 5, 6), mask.reshape(4, 2, 5))
    for expected, found in zip(whole, per_device):
        np.testing.assert_allclose(found, np.broadcast_to(expected, (4, 6)), rtol=1e-5)


def test_batch_statistics_gradient_over_devices_is_that_of_the_whole_batch():
    mask = jnp.arange(8)[:, None] * jnp.ones((1, 5), jnp.int32) % 5 < jnp.arange(5)[None]
    weights = jnp.arange(6.0)

    def normed(x, mask, axis_name=None):
        mean, variance = F.batch_statistics(x, mask, axis_name=axis_name)
        return jnp.sum(F.batch_norm(x, mean, variance, weights, weights) ** 3)

    whole = jax.grad(normed)(X, mask)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    def total(x):
        parts = jax.shard_map(
            lambda x, m: jax.lax.psum(normed(x, m, "d"), "d"),
            mesh=mesh, in_specs=(spec, spec), out_specs=jax.sharding.PartitionSpec(),
        )  # fmt: skip
        return parts(x, mask)

    np.testing.assert_allclose(jax.grad(total)(X), whole, rtol=2e-4, atol=2e-4)


def test_running_statistics():
    old = (jnp.zeros(2), jnp.ones(2))
    mean, variance = F.running_statistics(old, (jnp.full(2, 10.0), jnp.full(2, 3.0)), 0.9)
    np.testing.assert_allclose(mean, [1, 1], rtol=1e-6)
    np.testing.assert_allclose(variance, [1.2, 1.2], rtol=1e-6)
