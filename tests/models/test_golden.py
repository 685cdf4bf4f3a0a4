"""Numbers that torch and Hugging Face gave for a small model (tests/parity/golden.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from benchmarks.golden import named, parameters
from tests.parity.golden import CONFIGS, path_of
from transformer_jax import Transformer, functional

SOURCE = jnp.array([[4, 5, 6, 7, 1], [8, 9, 1, 0, 0]])
TARGET = jnp.array([[9, 8, 7, 1], [5, 1, 0, 0]])


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_golden_numbers_of_another_toolkit(name):
    with np.load(path_of(name), allow_pickle=False) as file:
        golden = dict(file)
    flat = {name: jnp.asarray(leaf) for name, leaf in parameters(golden).items()}
    params = unflatten_dict(flat, sep="/")
    model = Transformer(CONFIGS[name])

    def loss(params):
        logits = model.apply({"params": params}, SOURCE, TARGET)
        return functional.label_smoothed_cross_entropy(logits, TARGET, 0.1)[0], logits

    (total, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits[TARGET != 0], golden["logits"], atol=1e-5)
    if "loss" in golden:
        np.testing.assert_allclose(total, golden["loss"], rtol=1e-5)
    found = named("gradient", gradients)
    compared = [n for n in golden if n.startswith("gradient ")]
    assert compared
    largest = max(np.abs(golden[n]).max() for n in compared)
    for each in compared:
        scale = max(np.abs(golden[each]).max(), 1e-3 * largest)
        np.testing.assert_allclose(found[each], golden[each], atol=1e-4 * scale, err_msg=each)
