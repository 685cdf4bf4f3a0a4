"""Label-smoothed cross-entropy (section 5.4) as sums, so that parts of a batch can be added."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transformer_jax.functional.arguments import check_integer, replace_negative_ids

__all__ = [
    "at_class",
    "label_smoothed_cross_entropy",
    "map_blocks",
    "sum_blocks",
    "token_log_probs",
]


def token_log_probs(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """Compute log softmax(logits)[target] in float32.

    Args:
        logits: [B, T, V].
        targets: Integer classes [B, T].

    Returns:
        Log-probabilities [B, T] in nats; NaN for a target that is not a class.

    Raises:
        ValueError: The shapes do not belong together.

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
    """Sum the label-smoothed cross-entropy over the targets that count.

    The target distribution is 1 - e on the target and e / (V - 1) on every other class, which is
    tensor2tensor's form of section 5.4 (Szegedy et al. 2016 put e / V on all classes):

        loss = (1 - e) nll + e / (V - 1) * (V lse - sum(logits) - nll),  nll = lse - logits[target]

    with lse = logsumexp(logits); it needs neither a [B, T, V] one-hot nor log-probabilities.
    `smoothing=0` is the plain negative log-likelihood.

    Args:
        logits: [B, T, V]. What the logits of ignored targets hold reaches neither the loss nor its
            gradient. Others must be finite: one of -inf would make the smoothed loss infinite.
        targets: Integer classes [B, T].
        smoothing: e, in [0, 1).
        ignored: The target that does not count, padding by default.

    Returns:
        The summed loss in nats and the number of targets that count, both float32. A target that is
        not a class and not `ignored` makes the sum NaN.

    Raises:
        ValueError: The smoothing is outside [0, 1) or has no other class to go to, or the shapes do
            not belong together.

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
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nll = log_z - at_target
    loss = nll
    if smoothing:
        others = classes * log_z - logits.sum(axis=-1) - nll
        loss = (1 - smoothing) * nll + smoothing / (classes - 1) * others
    return jnp.sum(jnp.where(counted, loss, 0.0)), jnp.sum(counted, dtype=jnp.float32)


def map_blocks(
    function: Callable[[Array, Array], Any],
    block: int | None,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    fill: int = 0,
) -> Any:
    """Apply a function to blocks of positions, one after the other.

    What is large for a position, as its logits are, exists for one block at a time.

    Args:
        function: (features [B, T, D], targets [B, T]) -> a pytree; with blocks it gets
            [1, block, D] and [1, block].
        block: Positions in a block; None applies the function once to everything as it is.
        features: [B, T, D].
        targets: [B, T].
        fill: Target of the positions that fill up the last block; their features are 0.

    Returns:
        The results of all blocks, stacked along a new first axis.

    >>> features, targets = jnp.ones((2, 3, 4)), jnp.array([[1, 2, 3], [4, 5, 0]])
    >>> map_blocks(lambda x, y: y.sum(), 4, features, targets)
    Array([10,  5], dtype=int32)
    """
    if block is None:
        return jax.tree.map(lambda leaf: leaf[None], function(features, targets))
    blocks = _cut_blocks(block, features, targets, fill)
    return jax.lax.map(lambda each: jax.checkpoint(function)(*each), blocks)


def sum_blocks(
    function: Callable[[Array, Array], tuple[Array, Array]],
    block: int | None,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    fill: int = 0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Add up a loss over blocks of positions, whose gradient is computed with it.

    The gradient of a block's loss is taken while its logits are there, and only scaled when the
    gradient of the sum is known. So nothing is computed twice, and logits exist for one block at a
    time. There is no second derivative.

    Args:
        function: (features [B, T, D], targets [B, T]) -> the sum of a loss, and a count without
            gradient; with blocks it gets [1, block, D] and [1, block].
        block: As in `map_blocks`.
        features: [B, T, D].
        targets: [B, T].
        fill: As in `map_blocks`.

    Returns:
        The sums of both over all blocks.

    >>> features, targets = jnp.ones((2, 3, 4)), jnp.array([[1, 2, 3], [4, 5, 0]])
    >>> def function(x, y):
    ...     return (x.sum(-1) * y).sum(), jnp.sum(y != 0, dtype=jnp.float32)
    >>> jax.tree.map(float, sum_blocks(function, 4, features, targets))
    (60.0, 5.0)
    """
    if block is None:
        return function(features, targets)
    blocks = _cut_blocks(block, features, targets, fill)
    # What the function closes over, as parameters, has a gradient too.
    converted, constants = jax.closure_convert(function, *(each[0] for each in blocks))

    @jax.custom_vjp
    def total(constants, *blocks):
        found = jax.lax.map(lambda each: converted(*each, *constants), blocks)
        return jax.tree.map(lambda each: each.sum(axis=0), found)

    def forward(constants, *blocks):
        def add_block(sums, each):
            features, targets = each
            loss, pull_back, count = jax.vjp(
                lambda constants, features: converted(features, targets, *constants),
                constants, features, has_aux=True,
            )  # fmt: skip
            of_constants, of_features = pull_back(jnp.ones_like(loss))
            sums = jax.tree.map(jnp.add, sums, ((loss, count), of_constants))
            return sums, of_features

        first = tuple(each[0] for each in blocks)
        shapes = jax.eval_shape(lambda: converted(*first, *constants)), constants
        zeros = jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), shapes)
        (found, of_constants), of_features = jax.lax.scan(add_block, zeros, blocks)
        return found, (of_constants, of_features)

    def backward(gradients, cotangents):
        of_loss, _ = cotangents
        scaled = jax.tree.map(lambda each: (of_loss * each).astype(each.dtype), gradients)
        return *scaled, None

    total.defvjp(forward, backward)
    return total(constants, *blocks)


def _cut_blocks(block, features, targets, fill):
    """Features [n, 1, block, D] and targets [n, 1, block] of all positions and a rest of `fill`."""
    rows = -targets.size % block
    flat = jnp.pad(features.reshape(-1, features.shape[-1]), ((0, rows), (0, 0)))
    ids = jnp.pad(targets.reshape(-1), (0, rows), constant_values=fill)
    return flat.reshape(-1, 1, block, features.shape[-1]), ids.reshape(-1, 1, block)


def _checked(logits, targets):
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not fit logits {logits.shape}")
    check_integer("targets", targets)
    return logits.astype(jnp.float32)


def at_class(logits, targets):
    """Take logits[..., target], or NaN where the target is not a class.

    JAX would count negative ids from the end. Compared with a one-hot this needs a third less
    memory and time.

    Args:
        logits: [..., V].
        targets: Integers [...].

    Returns:
        [...] in the dtype of the logits.

    >>> at_class(jnp.array([[0.5, 2.0], [0.5, 2.0]]), jnp.array([1, -1]))
    Array([ 2., nan], dtype=float32)
    """
    index = replace_negative_ids(targets, logits.shape[-1])[..., None]
    return jnp.take_along_axis(logits, index, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
