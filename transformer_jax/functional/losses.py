"""Label-smoothed cross-entropy (section 5.4) as sums, so that parts of a batch can be added."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transformer_jax.functional.arguments import check_integer, rows_or_none

__all__ = ["at_class", "label_smoothed_cross_entropy", "map_blocks", "token_log_probs"]


def token_log_probs(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """log softmax(logits)[target] in float32; NaN for a target that is no class.

    ValueError if the shapes do not belong together.

    >>> token_log_probs(jnp.zeros((1, 1, 4)), jnp.array([[2]])).round(4)
    Array([[-1.3863]], dtype=float32)
    """
    logits = _checked(logits, targets)
    return at_class(logits, targets) - jax.nn.logsumexp(logits, axis=-1)


def label_smoothed_cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    smoothing: float = 0.1,
    ignored: int = 0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(summed loss in nats, number of target tokens); targets that are `ignored`, padding by
    default, count for nothing.

    The distribution aimed at is 1 - e on the target and e / (V - 1) on every other class, the
    code of record's form of section 5.4 (Szegedy et al. 2016 put e / V on all classes):

        loss = (1 - e) nll + e / (V - 1) * (V lse - sum(logits) - nll),  nll = lse - logits[target]

    with lse = logsumexp(logits), which needs neither a [B, T, V] one-hot nor log-probabilities.
    `smoothing=0` is the plain negative log-likelihood. What the logits of padding hold reaches
    neither the loss nor its gradient; others are finite: one of -inf would cost the smoothed loss
    infinity. A target that is no class and not `ignored`, as any other negative one, makes the sum
    NaN. ValueError if smoothing is outside [0, 1), for smoothing over a single class, or if the
    shapes do not belong together.

    >>> loss, count = label_smoothed_cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[2, 0]]))
    >>> print(loss.round(4), count)
    1.3863 1.0
    """
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"label smoothing {smoothing} is outside [0, 1)")
    logits = _checked(logits, targets)
    classes = logits.shape[-1]
    if smoothing and classes < 2:
        raise ValueError(f"label smoothing {smoothing} has no other class to go to among {classes}")
    counted = targets != ignored
    at_target = at_class(logits, jnp.where(counted, targets, 0))
    # Replaced, not multiplied by zero: behind padding infinities and NaN stay out of the gradient.
    # Only for sums: a gather from what is replaced would need a copy of all logits.
    logits = jnp.where(counted[..., None], logits, 0.0)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    nll = normaliser - at_target
    loss = nll
    if smoothing:
        others = classes * normaliser - logits.sum(axis=-1) - nll
        loss = (1 - smoothing) * nll + smoothing / (classes - 1) * others
    return jnp.sum(jnp.where(counted, loss, 0.0)), jnp.sum(counted, dtype=jnp.float32)


def map_blocks(
    function: Callable[[Array, Array], Any],
    block: int | None,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    fill: int = 0,
) -> Any:
    """What `function` makes of every block of positions, stacked; within one, so that what is large
    for a position, as its logits, is there for a block at a time, and again for its gradient.

    function  (features [B, T, D], targets [B, T]) -> a pytree
    block     positions in a block; None is all, as they are: function gets [1, block, ...] else
    fill      target of the positions that fill up the last block, whose features are 0

    >>> features, targets = jnp.ones((2, 3, 4)), jnp.array([[1, 2, 3], [4, 5, 0]])
    >>> map_blocks(lambda x, y: y.sum(), 4, features, targets)
    Array([10,  5], dtype=int32)
    """
    if block is None:
        return jax.tree.map(lambda leaf: leaf[None], function(features, targets))
    rows = -targets.size % block
    flat = jnp.pad(features.reshape(-1, features.shape[-1]), ((0, rows), (0, 0)))
    ids = jnp.pad(targets.reshape(-1), (0, rows), constant_values=fill)
    blocks = flat.reshape(-1, 1, block, features.shape[-1]), ids.reshape(-1, 1, block)
    return jax.lax.map(lambda each: jax.checkpoint(function)(*each), blocks)


def _checked(logits, targets):
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not fit logits {logits.shape}")
    check_integer("targets", targets)
    return logits.astype(jnp.float32)


def at_class(logits, targets):
    """logits[..., target], NaN for what is no class: JAX would count negative ones from the end.

    logits [..., V], targets [...] integers. Compared with a one-hot it needs a third less memory
    and time.

    >>> at_class(jnp.array([[0.5, 2.0], [0.5, 2.0]]), jnp.array([1, -1]))
    Array([ 2., nan], dtype=float32)
    """
    index = rows_or_none(targets, logits.shape[-1])[..., None]
    return jnp.take_along_axis(logits, index, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
