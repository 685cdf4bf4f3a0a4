"""Position-wise feed-forward network (section 3.3)."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from transformer_jax.functional.dropout import dropout
from transformer_jax.functional.keys import AnyKey
from transformer_jax.functional.linear import linear

__all__ = ["ACTIVATIONS", "feed_forward"]

# Name -> function, of the network's hidden layer; gelu is the exact one.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def feed_forward(
    x: Float[Array, "... D"],
    kernel_in: Float[Array, "D F"],
    bias_in: Float[Array, "F"],
    kernel_out: Float[Array, "F D"],
    bias_out: Float[Array, "D"],
    *,
    activation: str = "relu",
    dropout_rate: float = 0.0,
    rng: AnyKey | None = None,
    affine: Callable[[Array, Array, Array], Array] = linear,
) -> Float[Array, "... D"]:
    """Compute max(0, x W1 + b1) W2 + b2, equation 2; biases are added in float32.

    Args:
        x: [..., D].
        kernel_in: W1, [D, F].
        bias_in: b1, [F].
        kernel_out: W2, [F, D].
        bias_out: b2, [D].
        activation: relu, max(0, h) as in the equation; swish, h sigmoid(h); or gelu, h times the
            normal distribution function of h.
        dropout_rate: Dropout on the hidden layer, tensor2tensor's later "ReLU dropout"; the paper
            has none.
        rng: Key, or keys per row, of that dropout.
        affine: Computes x W + b of (x, W, b).

    Returns:
        [..., D] in the dtype of x.

    Raises:
        ValueError: The activation is unknown.

    >>> import jax.numpy as jnp
    >>> one, zero = jnp.ones((1, 1)), jnp.zeros(1)
    >>> feed_forward(jnp.array([[-1.0], [2.0]]), one, zero, one, zero)
    Array([[0.],
           [2.]], dtype=float32)
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    hidden = ACTIVATIONS[activation](affine(x, kernel_in, bias_in))
    hidden = dropout(hidden, dropout_rate, rng)
    return affine(hidden, kernel_out, bias_out)
