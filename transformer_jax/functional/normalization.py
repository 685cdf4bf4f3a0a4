"""Layer normalisation (the "Norm" of Figure 1) and batch normalisation, with float32 statistics."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transformer_jax.functional.arguments import check_floating, check_mask, check_shape

__all__ = ["batch_norm", "batch_statistics", "layer_norm", "running_statistics"]


def layer_norm(
    x: Float[Array, "... D"],
    gain: Float[Array, "D"],
    bias: Float[Array, "D"],
    epsilon: float = 1e-6,
) -> Float[Array, "... D"]:
    """Compute gain * (x - mean) / sqrt(variance + epsilon) + bias over the last axis.

    The formula is that of Ba et al. (2016).

    Args:
        x: [..., D], floating.
        gain: [D].
        bias: [D].
        epsilon: Added to the variance.

    Returns:
        [..., D] in the dtype of x. Statistics are float32 and biased (divided by D).

    Raises:
        TypeError: x is not floating.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), jnp.ones(2), jnp.zeros(2)).round(3)
    Array([[-1.,  1.]], dtype=float32)
    """
    check_floating("input of layer_norm", x)
    x_f32 = x.astype(jnp.float32)
    mean = x_f32.mean(axis=-1, keepdims=True)
    variance = jnp.square(x_f32 - mean).mean(axis=-1, keepdims=True)
    return _affine((x_f32 - mean) * jax.lax.rsqrt(variance + epsilon), gain, bias).astype(x.dtype)


def batch_statistics(
    x: Float[Array, "B ... D"],
    mask: Bool[Array, "B ..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
    """Compute mean and biased variance of each feature over every other axis.

    They are those of Ioffe & Szegedy (2015).

    Args:
        x: [B, ..., D].
        mask: Boolean [B, ...], True for the positions that count; padding should not.
        axis_name: Axes of a `pmap` or `shard_map` over whose devices the statistics are taken
            (`row_axes()` where a runner has sharded the batch). Sums are exchanged, so devices may
            hold different numbers of positions.

    Returns:
        Mean and variance, each [D] in float32.

    Raises:
        TypeError: The mask is not boolean.
        ValueError: The mask has another shape.

    >>> batch_statistics(jnp.array([[1.0], [3.0]]))
    (Array([2.], dtype=float32), Array([1.], dtype=float32))
    """
    x_f32 = x.astype(jnp.float32)
    kept = jnp.ones(x.shape[:-1], bool) if mask is None else mask
    check_mask(kept, x.shape[:-1], true="counts")
    check_shape("mask", kept, x.shape[:-1])  # what it leaves out is counted: no broadcasting
    axes = tuple(range(x.ndim - 1))

    def total(values):
        summed = jnp.sum(values, axis=axes)
        return summed if axis_name is None else jax.lax.psum(summed, axis_name)

    count = jnp.maximum(total(kept.astype(jnp.float32)), 1.0)
    mean = total(jnp.where(kept[..., None], x_f32, 0.0)) / count
    centred = x_f32 - jnp.expand_dims(mean, axes)
    # Two passes: E[x^2] - E[x]^2 cancels badly where the mean is large.
    variance = total(jnp.where(kept[..., None], jnp.square(centred), 0.0)) / count
    return mean, variance


def batch_norm(
    x: Float[Array, "B ... D"],
    mean: Float[Array, "D"],
    variance: Float[Array, "D"],
    gain: Float[Array, "D"],
    bias: Float[Array, "D"],
    epsilon: float = 1e-5,
) -> Float[Array, "B ... D"]:
    """Compute gain * (x - mean) / sqrt(variance + epsilon) + bias with given statistics.

    In training they come from `batch_statistics`, afterwards from `running_statistics`.

    Args:
        x: [B, ..., D], floating.
        mean: [D].
        variance: [D].
        gain: [D].
        bias: [D].
        epsilon: Added to the variance.

    Returns:
        [B, ..., D] in the dtype of x.

    >>> x = jnp.array([[1.0], [3.0]])
    >>> batch_norm(x, *batch_statistics(x), jnp.ones(1), jnp.zeros(1)).round(3)
    Array([[-1.],
           [ 1.]], dtype=float32)
    """
    check_floating("input of batch_norm", x)
    for name, values in (("mean", mean), ("variance", variance)):
        check_shape(name, values, x.shape[-1:])
    axes = tuple(range(x.ndim - 1))
    centred = x.astype(jnp.float32) - jnp.expand_dims(mean, axes)
    normed = centred * jnp.expand_dims(jax.lax.rsqrt(variance + epsilon), axes)
    return _affine(normed, gain, bias).astype(x.dtype)


def running_statistics(
    running: tuple[Float[Array, "D"], Float[Array, "D"]],
    batch: tuple[Float[Array, "D"], Float[Array, "D"]],
    momentum: float = 0.9,
) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
    """Update running statistics: momentum * running + (1 - momentum) * batch.

    Args:
        running: Mean and biased variance so far, each [D].
        batch: Mean and biased variance of a batch, each [D].
        momentum: In [0, 1].

    Returns:
        The new mean and variance.

    Raises:
        ValueError: The momentum is outside [0, 1], or the widths differ.

    >>> zero, one = jnp.zeros(1), jnp.ones(1)
    >>> running_statistics((zero, one), (one, one), momentum=0.75)
    (Array([0.25], dtype=float32), Array([1.], dtype=float32))
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum {momentum} is outside [0, 1]")
    for name, old, new in zip(("mean", "variance"), running, batch):
        check_shape(f"batch's {name}", new, old.shape)
    mean, variance = (momentum * old + (1 - momentum) * new for old, new in zip(running, batch))
    return mean, variance


def _affine(normed, gain, bias):
    for name, values in (("gain", gain), ("bias", bias)):
        check_shape(name, values, normed.shape[-1:])
    axes = tuple(range(normed.ndim - 1))
    return normed * jnp.expand_dims(gain, axes) + jnp.expand_dims(bias, axes)
