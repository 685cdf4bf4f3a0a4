"""Training in bfloat16 beside float32: sums are float32, gradients off by roundings alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import presets
from transformer_jax.config import ModelConfig
from transformer_jax.data.batching import Batch
from transformer_jax.models.dimensions import leaf_name
from transformer_jax.models.transformer import Transformer
from transformer_jax.training.step import make_step

ROWS, LENGTH = 128, 64  # 8,192 tokens a side
MODEL = ModelConfig(vocab_size=503, d_model=64, d_ff=128, num_heads=4, num_layers=2)


def zipf_batch():
    """Frequencies of words in text: the commonest is one of seven, and the rows are full."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, MODEL.vocab_size - 3)
    frequency /= frequency.sum()
    source, target = (
        rng.choice(np.arange(4, MODEL.vocab_size), (ROWS, LENGTH), p=frequency) for _ in range(2)
    )
    target[:, -1] = 1
    return Batch(source.astype(np.int32), target.astype(np.int32), np.arange(ROWS, dtype=np.int32))


def functions(dtype, model=MODEL):
    optimizer = presets.recipe("tiny").optimizer
    return make_step(Transformer(replace(model, dtype=dtype)), optimizer, seed=0)


def distances(params, batch):
    """Leaf name -> L2 distance of bfloat16's gradient to float32's; key biases apart."""
    rng = jax.random.key(1)
    exact, rounded = (
        jax.jit(functions(dtype).gradients)(params, batch, rng).gradients
        for dtype in ("float32", "bfloat16")
    )
    found, keys = {}, {}
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(rounded)
    ):
        name = leaf_name(path)
        if name.endswith("key/bias"):
            # Softmax does not see what is added to all its scores: the true gradient is zero.
            value = leaf(exact, name.replace("key/bias", "value/bias"))
            keys[name] = float(jnp.linalg.norm(new) / jnp.linalg.norm(value))
        else:
            found[name] = float(jnp.linalg.norm(new - old) / jnp.linalg.norm(old))
    return found, keys


def leaf(tree, name):
    for part in name.split("/"):
        tree = tree[part]
    return tree


def test_gradients_are_those_of_float32():
    batch = zipf_batch()
    steps = functions("bfloat16")
    state = jax.jit(steps.init)(jax.random.key(0))
    found, keys = distances(state.params, batch)
    print(sorted(found.values())[-5:], keys)
    assert max(found.values()) < 0.02
    assert max(keys.values()) < 1e-3

    step = jax.jit(lambda s, b: steps.update(s, steps.gradients(s.params, b, steps.rng(s, 0))))
    for _ in range(30):
        state, _ = step(state, batch)
    found, _ = distances(state.params, batch)
    print(sorted(found.values())[-5:])
    assert max(found.values()) < 0.04
