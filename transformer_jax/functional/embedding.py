"""Token embedding and the output projection that shares its table (section 3.4)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transformer_jax.functional.arguments import (
    check_axes,
    check_floating,
    check_integer,
    check_shape,
    replace_negative_ids,
)

__all__ = ["embed", "unembed"]


def embed(
    tokens: Int[Array, "B T"],
    table: Float[Array, "V D"],
    pad_id: int = 0,
    *,
    scaled: bool = True,
) -> Float[Array, "B T D"]:
    """Look up table[tokens] * sqrt(d_model) (section 3.4).

    Args:
        tokens: Integer ids [B, T].
        table: [V, D], floating.
        pad_id: The id whose embedding is the zero vector whatever its row holds, so that it can
            serve as the decoder's start symbol, as in tensor2tensor.
        scaled: Whether rows are multiplied by sqrt(d_model).

    Returns:
        [B, T, D] in the dtype of the table. An id that is no row of the table, negative ones
        included, gives NaN, which a loss shows.

    Raises:
        TypeError: The ids are not integers, or the table is not floating.
        ValueError: An argument has other axes.

    >>> embed(jnp.array([[0, 1]]), jnp.ones((2, 4)))
    Array([[[0., 0., 0., 0.],
            [2., 2., 2., 2.]]], dtype=float32)
    """
    check_integer("tokens", tokens)
    check_axes("tokens", tokens, "B T")
    check_axes("table", table, "V D")
    check_floating("table", table)
    rows = replace_negative_ids(tokens, table.shape[0])
    found = table.at[rows].get(mode="fill", fill_value=jnp.nan)
    if scaled:
        found *= jnp.asarray(math.sqrt(table.shape[1]), table.dtype)
    return jnp.where((tokens == pad_id)[:, :, None], jnp.zeros((), table.dtype), found)


def unembed(x: Float[Array, "B T D"], table: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Compute logits x E^T without scale or bias, summed in float32.

    Args:
        x: [B, T, D].
        table: E, [V, D].

    Returns:
        Logits [B, T, V] in float32.

    Raises:
        ValueError: The widths differ.

    >>> unembed(jnp.ones((1, 1, 4)), jnp.ones((2, 4)))
    Array([[[4., 4.]]], dtype=float32)
    """
    check_shape("table", table, (table.shape[0], x.shape[-1]))
    return jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
