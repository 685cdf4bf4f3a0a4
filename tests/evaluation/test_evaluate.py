"""Loss, perplexity and accuracy of a corpus beside NumPy."""

import jax
import numpy as np
import pytest

from transformer_jax import ModelConfig, Transformer
from transformer_jax.data.batching import Batch
from transformer_jax.devices.layout import Layout
from transformer_jax.evaluation.evaluate import make_evaluation

MODEL = ModelConfig(vocab_size=7, d_model=16, d_ff=32, num_heads=2, num_layers=1, dropout=0.5)


def batch(rows, length, seed):
    rng = np.random.default_rng(seed)
    source, target = (rng.integers(4, 7, (rows, length)) for _ in range(2))
    for row in range(rows):
        end = rng.integers(1, length)
        target[row, end:] = 0
        target[row, end - 1] = 1
    return Batch(source.astype(np.int32), target.astype(np.int32), np.arange(rows, dtype=np.int32))


def test_evaluation_counts_targets_alone():
    """Without smoothing, dropout or padding, and a token each: batches differ in how many."""
    model = Transformer(MODEL)
    batches = [batch(8, 9, 0), batch(16, 4, 1)]
    params = jax.jit(model.init)(jax.random.key(3), *batches[0][:2])["params"]
    # So that the likeliest token is padding here and there.
    params["embedding"] = params["embedding"].at[0].multiply(-5.0)
    losses, right, padding_called_likeliest = [], [], 0
    for each in batches:
        logits = np.asarray(jax.jit(model.apply)({"params": params}, *each[:2]), float)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        real = each.target != 0
        nll = -np.take_along_axis(log_probs, each.target[..., None], -1)[..., 0]
        losses += nll[real].tolist()
        right += (logits.argmax(-1) == each.target)[real].tolist()
        padding_called_likeliest += int((logits.argmax(-1)[~real] == 0).sum())
    assert padding_called_likeliest > 0
    for block in (None, 10):  # of 64 and 72 positions
        evaluate = make_evaluation(model, Layout(jax.devices()[:1]), block=block)
        found = evaluate({"params": params}, batches)
        assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
        assert found["accuracy"] == pytest.approx(np.mean(right), rel=1e-6)
