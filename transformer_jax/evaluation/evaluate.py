"""Loss on a corpus, the model being told the true target so far (no translation happens)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from transformer_jax.data.batching import Batch
from transformer_jax.data.vocabulary import PAD_ID
from transformer_jax.devices.layout import BATCH_AXES, Layout
from transformer_jax.functional.losses import label_smoothed_cross_entropy, map_blocks
from transformer_jax.models.kernels import logits_block

__all__ = ["make_evaluation", "read_target"]


def read_target(target: jax.Array, ignored: int) -> jax.Array:
    """A target as models read it, with padding where nothing counts.

    >>> read_target(jnp.array([[5, -1]]), ignored=-1)
    Array([[5, 0]], dtype=int32)
    """
    return target if ignored == PAD_ID else jnp.where(target == ignored, PAD_ID, target)


def make_evaluation(
    model: Any, layout: Layout, ignored: int = PAD_ID, block: int | None = None
) -> Callable[[Any, Iterable[Batch]], dict[str, float]]:
    """Make evaluate(variables, batches) -> loss, perplexity and accuracy, teacher-forced.

    The loss is the plain negative log-likelihood in nats, without label smoothing; perplexity is
    its exponential; accuracy is the fraction of tokens that the model finds likeliest. EOS counts,
    targets that are `ignored` do not. Batches hold the rows of `layout.local_rows`; each device
    reads its part of them.

    Args:
        model: A model of a family.
        layout: The devices.
        ignored: The target that does not count.
        block: Positions whose logits exist at once; None as `models.kernels.logits_block` says.
    """

    def sums(variables, batch):
        read = batch.source, read_target(batch.target, ignored)
        features: Any = model.apply(variables, *read, method="features")

        def counted(features, targets):
            logits: Any = model.apply(variables, features, method="project")
            loss, count = label_smoothed_cross_entropy(logits, targets, 0.0, ignored)
            correct = jax.lax.top_k(logits, 1)[1][..., 0] == targets
            correct &= targets != ignored
            return jnp.stack([loss, jnp.sum(correct, dtype=jnp.float32), count])

        at_once = logits_block(model.config, block, batch.target.size)
        found = map_blocks(counted, at_once, features, batch.target, ignored)
        return jax.lax.psum(found.sum(axis=0), BATCH_AXES)

    sums = jax.jit(layout.shard_map_rows(sums, takes=(P(), P(BATCH_AXES)), gives=P()))

    def evaluate(variables, batches):
        total = [0.0, 0.0, 0.0]
        for batch in map(layout.shard_batch, batches):
            # Reading each result keeps few steps in flight, which the CPU backend needs.
            total = [a + float(b) for a, b in zip(total, jax.device_get(sums(variables, batch)))]
        loss, correct, count = total
        mean = loss / count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"loss": mean, "perplexity": perplexity, "accuracy": correct / count}

    return evaluate
