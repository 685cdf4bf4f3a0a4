"""Label-smoothed cross-entropy (section 5.4) as sums, so that parts of a batch can be added."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["label_smoothed_cross_entropy", "token_log_probs"]


def token_log_probs(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """log softmax(logits)[target] in float32. ValueError if the shapes do not belong together.

    >>> token_log_probs(jnp.zeros((1, 1, 4)), jnp.array([[2]])).round(4)
    Array([[-1.3863]], dtype=float32)
    """
    logits = _checked(logits, targets)
    return _at(logits, targets) - jax.nn.logsumexp(logits, axis=-1)


def label_smoothed_cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    smoothing: float = 0.1,
    pad_id: int = 0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(summed loss in nats, number of target tokens); padding counts for nothing.

    The distribution aimed at is 1 - e on the target and e / (V - 1) on every other class, the
    code of record's form of section 5.4 (Szegedy et al. 2016 put e / V on all classes):

        loss = (1 - e) nll + e / (V - 1) * (V lse - sum(logits) - nll),  nll = lse - logits[target]

    with lse = logsumexp(logits), which needs neither a [B, T, V] one-hot nor log-probabilities.
    `smoothing=0` is the plain negative log-likelihood. Logits are finite: one of -inf would cost
    the smoothed loss infinity. A target that is no class makes the sum NaN. ValueError if
    smoothing is outside [0, 1) or the shapes do not belong together.

    >>> loss, count = label_smoothed_cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[2, 0]]))
    >>> print(loss.round(4), count)
    1.3863 1.0
    """
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"label smoothing {smoothing} is outside [0, 1)")
    logits = _checked(logits, targets)
    classes = logits.shape[-1]
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    nll = normaliser - _at(logits, targets)
    loss = nll
    if smoothing:
        others = classes * normaliser - logits.sum(axis=-1) - nll
        loss = (1 - smoothing) * nll + smoothing / (classes - 1) * others
    counted = (targets != pad_id).astype(jnp.float32)
    return jnp.sum(loss * counted), jnp.sum(counted)


def _checked(logits, targets):
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not fit logits {logits.shape}")
    return logits.astype(jnp.float32)


def _at(logits, targets):
    """logits[..., target]; compared with a one-hot it needs a third less memory and time."""
    return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
