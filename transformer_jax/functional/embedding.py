"""Token embedding and the output projection that shares its table (section 3.4)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["embed", "unembed"]


def embed(
    tokens: Int[Array, "B T"], table: Float[Array, "V D"], pad_id: int = 0
) -> Float[Array, "B T D"]:
    """table[tokens] * sqrt(d_model) (section 3.4), in the table's dtype; padding is zero.

    Whatever its row holds, `pad_id` is the zero vector and so usable as the decoder's start
    symbol, as in the code of record. Ids must be rows of the table: as everywhere in JAX others
    are clipped, not refused.

    >>> embed(jnp.array([[0, 1]]), jnp.ones((2, 4)))
    Array([[[0., 0., 0., 0.],
            [2., 2., 2., 2.]]], dtype=float32)
    """
    scaled = table[tokens] * jnp.asarray(math.sqrt(table.shape[1]), table.dtype)
    return jnp.where((tokens == pad_id)[:, :, None], jnp.zeros((), table.dtype), scaled)


def unembed(x: Float[Array, "B T D"], table: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Logits x E^T without scale or bias, summed in float32.

    >>> unembed(jnp.ones((1, 1, 4)), jnp.ones((2, 4)))
    Array([[[4., 4.]]], dtype=float32)
    """
    return jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
