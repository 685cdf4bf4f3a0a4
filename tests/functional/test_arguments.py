"""What a function cannot mean it refuses, instead of broadcasting or rounding without a word."""

import jax.numpy as jnp
import pytest

from tests.functional import unchecked
from transformer_jax import functional as F

X = jnp.ones((2, 3, 4))
HEADS = jnp.ones((2, 3, 2, 4))
IDS = jnp.ones((2, 3), jnp.int32)
MASK = jnp.ones((2, 1, 3, 3), bool)

CASES = [
    ("split_heads", (X, 0), ValueError, "not divisible by num_heads 0"),
    ("masked_softmax", (jnp.ones((1, 2, 3, 3)), MASK), ValueError, "must broadcast to"),
    ("apply_attention", (jnp.ones((2, 2, 3, 3)), HEADS[:1]), ValueError, "value has shape"),
    ("apply_attention", (jnp.ones((2, 2, 3, 3)), HEADS[:, :1]), ValueError, "value has shape"),
    ("additive_attention_weights", (HEADS, HEADS, jnp.ones((1, 4))), ValueError, "vector has"),
    ("dropout", (IDS, 0.5, F.seed_key(0)), TypeError, "input of dropout is int32"),
    ("dropout", (X, 0.5, F.fold_in_rows(F.seed_key(0), jnp.arange(3))), ValueError, "do not fit"),
    ("dropout", (X, float("nan"), F.seed_key(0)), ValueError, "dropout rate nan"),
    ("embed", (X[..., 0], jnp.ones((5, 4))), TypeError, "tokens are float32"),
    ("embed", (IDS[0], jnp.ones((5, 4))), ValueError, r"the tokens is \(3,\), not \[B, T\]"),
    ("unembed", (X, jnp.ones((5, 1))), ValueError, "table has shape"),
    ("linear", (X, jnp.ones((4, 5)), jnp.ones(1)), ValueError, r"bias has shape \(1,\)"),
    ("linear", (X, jnp.ones((1, 5)), jnp.ones(5)), ValueError, "kernel has shape"),
    ("label_smoothed_cross_entropy", (X, IDS.astype(float)), TypeError, "targets are float32"),
    ("label_smoothed_cross_entropy", (X[..., :1], IDS), ValueError, "no other class"),
    ("layer_norm", (X, jnp.ones(1), jnp.ones(4)), ValueError, "gain has shape"),
    ("layer_norm", (X, jnp.ones(4), jnp.ones(1)), ValueError, "bias has shape"),
    ("batch_norm", (X, *[jnp.ones(4)] * 3, jnp.ones(1)), ValueError, "bias has shape"),
    ("batch_norm", (X, jnp.ones(1), *[jnp.ones(4)] * 3), ValueError, "mean has shape"),
    ("batch_statistics", (X, jnp.ones((2, 3))), TypeError, "masks are boolean"),
    ("batch_statistics", (X, jnp.ones((3, 2, 3), bool)), ValueError, "must broadcast to"),
    ("running_statistics", ((X, X), (X, X), 1.5), ValueError, "momentum 1.5 is outside"),
    ("batch_statistics", (X, jnp.ones((2, 1), bool)), ValueError, "mask has shape"),
    ("batch_norm", (X, jnp.ones(4), jnp.ones(1), *[jnp.ones(4)] * 2), ValueError, "variance has"),
    ("batch_norm", (X.astype(int), *[jnp.ones(4)] * 4), TypeError, "input of batch_norm is int"),
    ("running_statistics", ((X[0, 0, :1],) * 2, (X[0, 0],) * 2), ValueError, "batch's mean has"),
    ("linear", (X.astype(int), jnp.ones((4, 5)), jnp.ones(5)), TypeError, "input of linear is"),
    ("embed", (IDS, jnp.ones((5, 4), int)), TypeError, "the table is int"),
    ("fold_in_rows", (F.seed_key(0), jnp.ones(3)), TypeError, "rows are float32"),
    ("padding_mask", (X[..., 0],), TypeError, "tokens are float32"),
    ("causal_mask", (-1,), ValueError, "length -1 is negative"),
    ("local_window_mask", (-1, 2), ValueError, "length -1 is negative"),
    ("segment_mask", (IDS, IDS[:1]), ValueError, "not of one batch"),
    ("combine_masks", (MASK, MASK.astype(jnp.int32)), TypeError, "masks are boolean"),
    ("sinusoids", (-1, 4), ValueError, "length -1 is negative"),
    ("sinusoids_at", (jnp.ones(3), 4), TypeError, "positions are float32"),
    ("sinusoids_at", (jnp.ones(3, int), 5), ValueError, "d_model 5 is odd"),
    ("convolution", (X, jnp.ones((3, 1, 5)), jnp.ones(5)), ValueError, "kernel has shape"),
    ("convolution", (X, jnp.ones((3, 4, 5)), jnp.ones(1)), ValueError, "bias has shape"),
    ("convolution", (IDS, jnp.ones((3, 4, 5)), jnp.ones(5)), ValueError, r"not \[B, T, D\]"),
    ("gated_linear_unit", (X[..., :3],), ValueError, "width 3 is odd"),
    ("learned_positions", (jnp.ones((5, 4)), -1), ValueError, "-1 positions asked"),
]  # fmt: skip


def test_ids_of_narrow_dtype_with_a_large_vocabulary():
    one = jnp.ones((1, 1), jnp.int8)
    table = jnp.arange(400.0).reshape(200, 2)
    assert F.embed(one, table)[0, 0, 1] == pytest.approx(3 * 2**0.5)
    assert jnp.isnan(F.embed(-one * 60, table)).all()
    assert jnp.isnan(F.token_log_probs(jnp.zeros((1, 1, 200)), -one * 60)).all()


@pytest.mark.parametrize(("name", "arguments", "kind", "message"), CASES)
def test_arguments_refused(name, arguments, kind, message):
    with pytest.raises(kind, match=message):
        unchecked(getattr(F, name))(*arguments)
