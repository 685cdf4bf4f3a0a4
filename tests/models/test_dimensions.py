"""Letters stand beside the parameter whose dimensions they name, and follow it into any state."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from transformer_jax.devices.layout import Layout
from transformer_jax.errors import UserError
from transformer_jax.models.dimensions import axes_of, boxed_init, state_axes


class Stranger(nn.Module):
    """A model of somebody else, one parameter without names."""

    letters: tuple[str, ...] = ("D", "F")

    @nn.compact
    def __call__(self, x):
        kernel = nn.with_logical_partitioning(nn.initializers.ones, self.letters)
        kernel = self.param("kernel", kernel, (16, 8))
        return x @ kernel + self.param("bias", nn.initializers.zeros, (8,))[None]


def test_axes_follow_parameters_into_any_state():
    x = jnp.zeros((1, 16))
    axes = axes_of(boxed_init(Stranger(), x))
    assert axes == {"kernel": P("D", "F"), "bias": P()}
    with pytest.raises(ValueError, match=r"kernel has 2 dimensions, not \('D',\)"):
        axes_of(boxed_init(Stranger(("D",)), x))
    params = nn.unbox(Stranger().init(jax.random.key(0), x))["params"]
    named_chain = optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(0.1)))
    for optimizer in (
        optax.adam(0.1), optax.adafactor(0.1, min_dim_size_to_factor=4), named_chain,
    ):  # fmt: skip
        state = optimizer.init(params)
        letters = state_axes(state, params, axes)
        for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(letters), strict=True):
            # Moments lie as their parameter; what adafactor sums along a dimension is whole.
            assert spec == (P("D", "F") if leaf.shape == (16, 8) else P())
    assert P("D", "F") in jax.tree.leaves(state_axes(optax.adam(0.1).init(params), params, axes))


def test_parameters_without_axes_are_refused_only_when_sharded():
    x = jnp.zeros((1, 16))
    params = nn.unbox(Stranger().init(jax.random.key(0), x))["params"]
    axes = axes_of(boxed_init(Stranger(), x))
    Layout(jax.devices(), 8).check_axes(params, axes)
    with pytest.raises(UserError, match=r"mesh fsdp=8 cannot shard parameter \['bias'\], whose"):
        Layout(jax.devices(), 1, 8).check_axes(params, axes)
