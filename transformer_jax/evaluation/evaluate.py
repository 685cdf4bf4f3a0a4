"""Loss on a corpus, the model being told the true target so far (no translation happens)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from transformer_jax.data.batching import Batch
from transformer_jax.data.vocabulary import PAD_ID
from transformer_jax.functional.losses import label_smoothed_cross_entropy
from transformer_jax.parallel import BATCH, Layout

__all__ = ["make_evaluation"]


def make_evaluation(
    model: nn.Module, layout: Layout, ignored: int = PAD_ID
) -> Callable[[Any, Iterable[Batch]], dict[str, float]]:
    """evaluate(variables, batches) -> {"loss", "perplexity", "accuracy"} per target token.

    Batches hold the rows of `layout.share`; each device reads its part of them.
    Loss is the plain negative log-likelihood in nats, without label smoothing; perplexity its
    exponential; accuracy the share of tokens that the model finds likeliest. EOS counts, targets
    that are `ignored` do not.
    """

    def sums(variables, batch):
        logits: Any = model.apply(variables, batch.source, batch.target)
        loss, count = label_smoothed_cross_entropy(logits, batch.target, 0.0, ignored)
        right = jax.lax.top_k(logits, 1)[1][..., 0] == batch.target
        right &= batch.target != ignored
        found = jnp.stack([loss, jnp.sum(right, dtype=jnp.float32), count])
        return jax.lax.psum(found, BATCH)

    sums = jax.jit(layout.by_rows(sums, takes=(P(), P(BATCH)), gives=P()))

    def evaluate(variables, batches):
        total = [0.0, 0.0, 0.0]
        for batch in map(layout.place, batches):
            # Reading each result keeps few steps in flight, which the CPU backend needs.
            total = [a + float(b) for a, b in zip(total, jax.device_get(sums(variables, batch)))]
        loss, right, count = total
        mean = loss / count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"loss": mean, "perplexity": perplexity, "accuracy": right / count}

    return evaluate
