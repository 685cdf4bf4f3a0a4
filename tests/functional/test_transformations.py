"""Every public function gives the same under jit, vmap, pmap and NamedSharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from transformer_jax import functional as F

B, T, S, H, K, D, V = 8, 3, 5, 2, 4, 6, 11
rng = np.random.default_rng(0)


def floats(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def ids(*shape):
    return jnp.asarray(rng.integers(0, V, shape), jnp.int32)


MASK = jnp.asarray(rng.random((B, 1, T, S)) < 0.5)
KEY = jax.random.key(3)
W = {name: floats(*shape) for name, shape in
     {"table": (V, D), "gain": (D,), "bias": (D,), "w1": (D, 7), "b1": (7,), "w2": (7, D),
      "vector": (H, K), "kernel": (2, D, 7)}.items()}  # fmt: skip

# name -> (function of batched arrays, those arrays with the batch first)
CASES = {
    "split_heads": (lambda x: F.split_heads(x, 2), (floats(B, T, D),)),
    "merge_heads": (F.merge_heads, (floats(B, T, H, K),)),
    "map_blocks": (
        lambda x, y: F.map_blocks(lambda x, y: x.sum(-1) * y.astype(float), T, x, y).reshape(
            y.shape
        ),
        (floats(B, T, D), ids(B, T)),
    ),
    "sum_blocks": (  # of each row by itself, since a sum has no rows
        lambda x, y: jnp.stack(
            [
                F.sum_blocks(lambda x, y: (x.sum(), jnp.sum(y != 0, dtype=jnp.float32)), 2, a, b)[0]
                for a, b in zip(x[:, None], y[:, None])
            ]
        ),
        (floats(B, T, D), ids(B, T)),
    ),
    "compact_attention": (
        F.compact_attention,
        (floats(B, T, H, K), floats(B, S, H, K), floats(B, S, H, D), MASK),
    ),
    "blockwise_attention": (
        lambda *given: F.blockwise_attention(*given, block=2),
        (floats(B, T, H, K), floats(B, S, H, K), floats(B, S, H, D), MASK),
    ),
    "cudnn_attention": (  # here what stands in for it
        lambda *given: F.cudnn_attention(*given[:3], given[3]),
        (*(x.astype(jnp.bfloat16) for x in (floats(B, T, H, 8), *[floats(B, S, H, 8)] * 2)), MASK),
    ),
    "compact_linear": (
        lambda x: F.compact_linear(x, [W["w1"]] * 2, [W["b1"]] * 2)[1],
        (floats(B, T, D),),
    ),
    "compact_unembed": (lambda x: F.compact_unembed(x, W["table"]), (floats(B, T, D),)),
    "cached_attention": (
        F.cached_attention,
        (floats(B, T, H, K), floats(B, H, K, S), floats(B, H, S, D), MASK),
    ),
    "local_attention": (
        lambda *given: F.local_attention(*given, radius=1),
        (floats(B, S, H, K), floats(B, S, H, K), floats(B, S, H, D), MASK[:, :, :1]),
    ),
    "convolution": (lambda x: F.convolution(x, W["kernel"], W["b1"]), (floats(B, T, D),)),
    "gated_linear_unit": (F.gated_linear_unit, (floats(B, T, D),)),
    "sinusoids_at": (lambda x: F.sinusoids_at(x, D), (ids(B, T),)),
    "segment_positions": (F.segment_positions, (jnp.sort(ids(B, T) % 2),)),
    "masked_softmax": (F.masked_softmax, (floats(B, H, T, S), MASK)),
    "attention_weights": (F.attention_weights, (floats(B, T, H, K), floats(B, S, H, K), MASK)),
    "additive_attention_weights": (
        lambda q, k, m: F.additive_attention_weights(q, k, W["vector"], m),
        (floats(B, T, H, K), floats(B, S, H, K), MASK),
    ),
    "apply_attention": (F.apply_attention, (floats(B, H, T, S), floats(B, S, H, D))),
    "dot_product_attention": (
        F.dot_product_attention,
        (floats(B, T, H, K), floats(B, S, H, K), floats(B, S, H, D), MASK),
    ),
    "padding_mask": (F.padding_mask, (ids(B, S),)),
    "causal_mask": (lambda x: F.causal_mask(T) & (x[:, :, None, None] > 0), (floats(B, 1),)),
    "local_window_mask": (
        lambda x: F.local_window_mask(T, 1) & (x[:, :, None, None] > 0),
        (floats(B, 1),),
    ),
    "segment_mask": (F.segment_mask, (ids(B, T) % 3, ids(B, S) % 3)),
    "combine_masks": (F.combine_masks, (MASK, ~MASK)),
    "layer_norm": (lambda x: F.layer_norm(x, W["gain"], W["bias"]), (floats(B, T, D),)),
    "batch_norm": (
        lambda x: F.batch_norm(x, W["gain"], W["bias"] ** 2, W["gain"], W["bias"]),
        (floats(B, T, D),),
    ),
    "linear": (lambda x: F.linear(x, W["w1"], W["b1"]), (floats(B, T, D),)),
    "feed_forward": (
        lambda x: F.feed_forward(x, W["w1"], W["b1"], W["w2"], W["bias"]),
        (floats(B, T, D),),
    ),
    "embed": (lambda x: F.embed(x, W["table"]), (ids(B, T),)),
    "unembed": (lambda x: F.unembed(x, W["table"]), (floats(B, T, D),)),
    "sinusoids": (lambda x: x + F.sinusoids(T, D)[None], (floats(B, T, D),)),
    "learned_positions": (
        lambda x: x + F.learned_positions(W["table"], T)[None],
        (floats(B, T, D),),
    ),
    "token_log_probs": (F.token_log_probs, (floats(B, T, V), ids(B, T))),
    "label_smoothed_cross_entropy": (
        lambda x, y: jax.vmap(F.label_smoothed_cross_entropy)(x[:, None], y[:, None])[0],
        (floats(B, T, V), ids(B, T)),
    ),
    "running_statistics": (
        lambda a, b: F.running_statistics((a[0], a[0]), (b[0], b[0]))[0][None] + 0 * a,
        (jnp.tile(W["gain"], (B, 1)), jnp.tile(W["bias"], (B, 1))),
    ),
    "dropout": (
        lambda x: jax.vmap(lambda row, n: F.dropout(row, 0.3, jax.random.fold_in(KEY, n)))(
            x[:, 1:], x[:, 0].astype(jnp.uint32)
        ),
        (floats(B, D).at[:, 0].set(jnp.arange(B, dtype=jnp.float32)),),
    ),
    "batch_statistics": (
        lambda x: jnp.stack([jnp.stack(F.batch_statistics(row[None])) for row in x]),
        (floats(B, T, D),),
    ),
}


def test_loss_over_sharded_rows_is_one_sum():
    """Each device holds other numbers of tokens; the sums are those of the whole batch."""
    logits, targets = floats(B, T, V - 1), ids(B, T) % (V - 1)
    targets = jnp.where(jnp.arange(B)[:, None] % 4 < jnp.arange(T)[None] + 1, targets, 0)
    expected = F.label_smoothed_cross_entropy(logits, targets)
    slope = jax.grad(lambda x: F.label_smoothed_cross_entropy(x, targets)[0])(logits)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    # The vocabulary is sharded too, as under tensor parallelism.
    placed = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data", None, "tensor")))
    rows = jax.device_put(targets, NamedSharding(mesh, PartitionSpec("data")))
    for found, wanted in zip(jax.jit(F.label_smoothed_cross_entropy)(placed, rows), expected):
        np.testing.assert_allclose(found, wanted, rtol=2e-6)
    found = jax.jit(jax.grad(lambda x, y: F.label_smoothed_cross_entropy(x, y)[0]))(placed, rows)
    np.testing.assert_allclose(found, slope, atol=2e-6)


def test_dropout_of_a_sharded_array_is_that_of_the_whole():
    x = floats(B, T, D)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    found = jax.jit(lambda x: F.dropout(x, 0.3, KEY))(placed)
    np.testing.assert_array_equal(found, F.dropout(x, 0.3, KEY))


def test_transformations_cover_every_public_function():
    # Functions of keys have tests of their own, in test_keys.py.
    assert set(CASES) == set(F.__all__) - {
        "fold_in_rows", "receptive_field", "row_axes", "row_keys", "seed_key", "typed_key",
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_transformations_agree(name):
    function, arguments = CASES[name]
    expected = np.asarray(function(*arguments), np.float64)

    def check(found):
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2e-6, atol=2e-6)

    check(jax.jit(function)(*arguments))
    split = [x.reshape(4, 2, *x.shape[1:]) for x in arguments]
    check(jax.vmap(function)(*split).reshape(expected.shape))
    check(jax.pmap(function)(*split).reshape(expected.shape))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    check(jax.jit(function)(*jax.device_put(arguments, rows)))
