import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import functional as F

TOKENS = jnp.array([[7, 8, 9, 0, 0], [7, 0, 0, 0, 0]])


def test_padding_mask():
    np.testing.assert_array_equal(
        F.padding_mask(TOKENS)[:, 0, 0].astype(int), [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    )
    assert F.padding_mask(TOKENS).shape == (2, 1, 1, 5)
    assert F.padding_mask(TOKENS, pad_id=7)[0, 0, 0].tolist() == [False, True, True, True, True]


def test_causal_mask():
    np.testing.assert_array_equal(
        F.causal_mask(4)[0, 0].astype(int),
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    )


def test_local_window_mask():
    np.testing.assert_array_equal(
        F.local_window_mask(5, 1)[0, 0].astype(int),
        [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]],
    )
    np.testing.assert_array_equal(F.local_window_mask(3, 0)[0, 0], np.eye(3, dtype=bool))
    before = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(F.local_window_mask(4, 1, causal=True)[0, 0], before)
    with pytest.raises(ValueError, match="radius -1 is negative"):
        F.local_window_mask(3, -1)


def test_masks_of_zero_and_negative_length():
    assert F.causal_mask(0).shape == F.local_window_mask(0, 1).shape == (1, 1, 0, 0)
    for mask in (F.causal_mask, lambda length: F.local_window_mask(length, 1)):
        with pytest.raises(ValueError, match="length -1 is negative"):
            mask(-1)


def test_segment_mask():
    segments = jnp.array([[1, 1, 2, 2, 0]])
    np.testing.assert_array_equal(
        F.segment_mask(segments, segments)[0, 0].astype(int),
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
    )
    across = F.segment_mask(jnp.array([[1, 2, 0]]), jnp.array([[2, 1]]))
    np.testing.assert_array_equal(across[0, 0].astype(int), [[0, 1], [1, 0], [0, 0]])


def test_combine_masks():
    combined = F.combine_masks(F.causal_mask(5), None, F.padding_mask(TOKENS))
    np.testing.assert_array_equal(
        combined[1, 0].astype(int),
        [[1, 0, 0, 0, 0]] * 5,
    )
    assert combined.shape == (2, 1, 5, 5)
    assert F.combine_masks() is None


def test_segment_mask_equals_separate_sentences():
    """Two sentences in one row attend as each does alone."""
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(1, 5, 2, 4)), jnp.float32) for _ in range(3))
    segments = jnp.array([[1, 1, 2, 2, 2]])
    packed = F.dot_product_attention(query, key, value, F.segment_mask(segments, segments))
    for part in (slice(0, 2), slice(2, 5)):
        alone = F.dot_product_attention(query[:, part], key[:, part], value[:, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-6)
