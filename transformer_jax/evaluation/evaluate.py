"""Loss on a corpus, the model being told the true target so far (no translation happens)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from transformer_jax.data.batching import Batch
from transformer_jax.functional.losses import label_smoothed_cross_entropy
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel import BATCH, Layout

__all__ = ["make_evaluation"]


def make_evaluation(
    model: Transformer, layout: Layout
) -> Callable[[Any, Iterable[Batch]], dict[str, float]]:
    """evaluate(params, batches) -> {"loss", "perplexity", "accuracy"} per target token.

    Batches hold the rows of `layout.share`; each device reads its part of them.
    Loss is the plain negative log-likelihood in nats, without label smoothing; perplexity its
    exponential; accuracy the share of tokens that the model finds likeliest. EOS counts.
    """

    def sums(params, batch):
        logits: Any = model.apply({"params": params}, batch.source, batch.target)
        loss, count = label_smoothed_cross_entropy(logits, batch.target, smoothing=0.0)
        right = (jax.lax.top_k(logits, 1)[1][..., 0] == batch.target) & (batch.target != 0)
        found = jnp.stack([loss, jnp.sum(right, dtype=jnp.float32), count])
        return jax.lax.psum(found, BATCH)

    sums = jax.jit(layout.by_rows(sums, takes=(P(), P(BATCH)), gives=P()))

    def evaluate(params, batches):
        total = [0.0, 0.0, 0.0]
        for batch in map(layout.place, batches):
            # Reading each result keeps few steps in flight, which the CPU backend needs.
            total = [a + float(b) for a, b in zip(total, jax.device_get(sums(params, batch)))]
        loss, right, count = total
        mean = loss / count
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"loss": mean, "perplexity": perplexity, "accuracy": right / count}

    return evaluate
