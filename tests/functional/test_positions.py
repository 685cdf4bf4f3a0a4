import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import reference
from tests.functional import unchecked
from transformer_jax import functional as F


def test_sinusoids_match_section_3_5():
    found = F.sinusoids(1001, 14, "paper")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference.positions(1001, 14), atol=6e-8)


def test_sinusoids_concatenated_is_a_permutation():
    paper, joined = F.sinusoids(11, 8, "paper"), F.sinusoids(11, 8, "concatenated")
    np.testing.assert_array_equal(joined, jnp.concatenate([paper[:, ::2], paper[:, 1::2]], 1))


def test_sinusoids_t2t_layout():
    found = np.asarray(F.sinusoids(11, 8, "t2t"), np.float64)
    for pos in (0, 1, 10):
        for i in range(4):
            angle = pos / 10000 ** (i / 3)
            np.testing.assert_allclose(found[pos, i], np.sin(angle), atol=1e-7)
            np.testing.assert_allclose(found[pos, 4 + i], np.cos(angle), atol=1e-7)
    # Its second wave is none of the paper's, so no permutation of columns turns one into the other.
    paper = np.asarray(F.sinusoids(11, 8), np.float64)
    assert np.abs(paper - found[:, 1:2]).max(axis=0).min() > 0.1


@given(st.integers(1, 60))
def test_sinusoids_offset_is_one_linear_map(k):
    """Section 3.5: PE(pos + k) = M_k PE(pos), a rotation of each pair, the same at every pos."""
    d_model = 12
    table = np.asarray(F.sinusoids(128, d_model), np.float64)
    rotation = np.zeros((d_model, d_model))
    for i in range(d_model // 2):
        angle = k / 10000 ** (2 * i / d_model)
        block = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    np.testing.assert_allclose(table[k:], table[: 128 - k] @ rotation.T, atol=1e-6)


def test_learned_positions_and_their_limit():
    table = jnp.arange(12.0).reshape(6, 2)
    for length in (0, 4, 6):
        np.testing.assert_array_equal(F.learned_positions(table, length), table[:length])
    with pytest.raises(ValueError, match="-1 positions asked"):
        F.learned_positions(table, -1)
    with pytest.raises(ValueError, match="7 positions asked of a learned table of 6"):
        F.learned_positions(table, 7)


@pytest.mark.parametrize("layout", ["paper", "concatenated", "t2t"])
def test_sinusoids_at_positions_are_rows_of_the_table(layout):
    positions = jnp.array([[0, 1, 255], [256, 257, 40_001]])
    found = jax.jit(F.sinusoids_at, static_argnums=(1, 2))(positions, 12, layout)
    expected = F.sinusoids(40_002, 12, layout)[positions]
    np.testing.assert_allclose(found, expected, atol=2.5e-7)
    last = F.sinusoids(2**16, 12, layout)[-1]
    np.testing.assert_allclose(F.sinusoids_at(jnp.array(10**6), 12, layout), last, atol=2.5e-7)


@pytest.mark.parametrize("layout", ["paper", "concatenated", "t2t"])
def test_sinusoids_of_zero_length_are_empty(layout):
    assert F.sinusoids(0, 4, layout).shape == (0, 4)


def test_positions_reject_bad_arguments():
    with pytest.raises(ValueError, match="length -1 is negative"):
        F.sinusoids(-1, 4)
    with pytest.raises(ValueError, match="d_model 5 is odd"):
        F.sinusoids(3, 5)
    with pytest.raises(ValueError, match="layout 'fourier' is not one of paper, concatenated, t2t"):
        unchecked(F.sinusoids)(3, 4, "fourier")
