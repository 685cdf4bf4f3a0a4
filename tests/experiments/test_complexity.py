"""Counts of operations, chains and paths, by hand and beside the compiler's own."""

import math

import jax
import jax.numpy as jnp
import pytest

from experiments import complexity
from experiments.complexity import count_operations, depth, growth, longest_path, trace


def compiled_flops(layer, n, d):
    x = jax.ShapeDtypeStruct((n, d), jnp.float32)
    return jax.jit(layer).lower(x).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    "layer",
    [
        complexity.self_attention(64),
        complexity.restricted_attention(64, 8),
        complexity.convolution(64, 3),
        complexity.recurrent(64, unroll=16),
    ],
    ids=["attention", "restricted", "convolution", "recurrent"],
)
def test_operations_are_about_those_of_the_compiler(layer):
    """The recurrence unrolled: of a loop the compiler counts one round."""
    counted = count_operations(trace(layer, 16, 64))
    assert counted == pytest.approx(compiled_flops(layer, 16, 64), rel=0.15)


def test_operations_by_hand():
    def layer(x):
        return jnp.tanh(x @ jnp.ones((3, 5))) + 1

    # 2 * 4 * 3 * 5 for the product, 20 for tanh, 20 for the sum.
    assert count_operations(trace(layer, 4, 3)) == 160
    assert count_operations(trace(lambda x: x.T.reshape(2, 6), 4, 3)) == 0
    assert count_operations(trace(lambda x: x.sum(), 4, 3)) == 12


def test_operations_of_a_loop_are_its_rounds_times_its_body():
    looped, unrolled = (complexity.recurrent(8, unroll) for unroll in (1, 12))
    assert count_operations(trace(looped, 12, 8)) == count_operations(trace(unrolled, 12, 8))
    with pytest.raises(ValueError, match="how long a while takes"):
        count_operations(
            trace(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, jnp.exp, x), 2, 2)
        )


def test_depth_counts_what_waits():
    assert depth(trace(lambda x: jnp.tanh(x) + jnp.exp(x), 16, 4)) == 2
    recurrent = complexity.recurrent(4)
    assert depth(trace(recurrent, 64, 4)) - depth(trace(recurrent, 32, 4)) >= 3 * 32
    attention = complexity.self_attention(4)
    assert depth(trace(attention, 16, 4)) == depth(trace(attention, 128, 4)) > 5


def test_longest_paths_by_hand():
    assert longest_path([complexity.self_attention(4)], 9) == 1
    # Two positions a layer, from the first of nine to the last.
    assert longest_path([complexity.restricted_attention(4, 4)] * 9, 9) == 4
    assert longest_path([complexity.restricted_attention(4, 6)] * 9, 9) == 3
    assert longest_path([complexity.convolution(4, 3, 3**i) for i in range(4)], 27) == 3
    with pytest.raises(ValueError, match="do not connect"):
        longest_path([lambda x: x] * 5, 3)


def test_growth_by_hand():
    assert growth(lambda n, d: n**2 * d, (8, 4), 0) == pytest.approx(2)
    assert growth(lambda n, d: n**2 * d, (8, 4), 1) == pytest.approx(1)
    # Of ln 1, 3, 9, 54 at ln 1, 2, 4, 8: the slope of least squares over all four, by hand.
    measured = {1: 1.0, 2: 3.0, 4: 9.0, 8: 54.0}
    steps = [math.log(value) / math.log(2) for value in measured.values()]
    slope = (-1.5 * steps[0] - 0.5 * steps[1] + 0.5 * steps[2] + 1.5 * steps[3]) / 5
    assert growth(lambda n: measured[n], (1,), 0) == pytest.approx(slope)


def test_table_1_is_the_papers():
    """Powers of each size within 0.1; what is constant in n stays so; paths to the layer."""
    found = {(row[0], row[1]): row[3] for row in complexity.complexity_table().rows}
    expected = {
        "self-attention": {"n": 2, "d": 1},
        "recurrent": {"n": 1, "d": 2},
        "convolutional": {"n": 1, "d": 2, "k": 1},
        "restricted": {"n": 1, "d": 1, "r": 1},
    }
    for name, powers in expected.items():
        chain = {letter: int((name, letter) == ("recurrent", "n")) for letter in powers}
        for of, wanted in (("operations a layer", powers), ("sequential operations", chain)):
            told = dict(part.split("^") for part in found[name, of].split())
            assert {letter: float(power) for letter, power in told.items()} == pytest.approx(
                wanted, abs=0.1
            )
    assert found["self-attention", "longest path"] == "n 17: 1; n 33: 1; n 65: 1"
    assert found["recurrent", "longest path"] == "n 17: 16; n 33: 32; n 65: 64"
    assert found["convolutional", "longest path"].startswith(
        "k 3, n 9: 2; k 3, n 27: 3; k 3, n 81: 4"
    )
    assert found["restricted", "longest path"] == "r 8, n 65: 16; r 8, n 129: 32; r 16, n 129: 16"
