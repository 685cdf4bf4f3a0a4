"""The same weights in torch.nn.RNN, torch.nn.LSTM and torch.nn.Conv1d: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import ModelConfig, functional
from transformer_jax.models.convolutional import ConvolutionalDecoder
from transformer_jax.models.recurrent import RecurrentDecoder, RecurrentEncoder

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

SOURCE = np.array([[4, 5, 6, 7, 1], [8, 9, 1, 0, 0], [3, 1, 0, 0, 0]])
TARGET = np.array([[4, 5, 6, 7, 1], [8, 9, 1, 5, 5]])
GATES = "ifgo"  # torch stacks the LSTM's gates in this order


def draw(module, tokens):
    """Parameters at random, biases too."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(tokens))["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32), shapes)


def torch_weights(cell, architecture):
    """Of a cell's parameters (weight_ih, weight_hh, bias_ih, bias_hh)."""
    if architecture == "rnn":
        read, kept, bias = cell["i"]["kernel"], cell["h"]["kernel"], cell["i"]["bias"]
    else:
        read, kept = (
            np.concatenate([cell[f"{side}{gate}"]["kernel"] for gate in GATES], axis=1)
            for side in "ih"
        )
        bias = np.concatenate([cell[f"h{gate}"]["bias"] for gate in GATES])
    read, kept, bias = (np.asarray(x) for x in (read, kept, bias))
    return read.T, kept.T, bias, np.zeros_like(bias)


def load(network, layer, suffix, cell, architecture):
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    with torch.no_grad():
        for name, value in zip(names, torch_weights(cell, architecture)):
            getattr(network, f"{name}_l{layer}{suffix}").copy_(torch.tensor(value))


def torch_network(architecture, *sizes, **options):
    made = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[architecture]
    return made(*sizes, batch_first=True, **options)


def embedded(params, tokens):
    """The embedding as torch computes it: PAD is the zero vector."""
    table = torch.tensor(np.asarray(params), requires_grad=True)
    x = table[torch.tensor(tokens)] * table.shape[1] ** 0.5
    return table, torch.where(torch.tensor(tokens == 0)[..., None], torch.zeros(()), x)


def check(found, gradient, expected, table):
    np.testing.assert_allclose(found, expected.detach(), atol=2e-6)
    expected.square().sum().backward()
    np.testing.assert_allclose(gradient, table.grad, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("architecture", ["rnn", "lstm"])
def test_encoder_is_torchs_bidirectional_network(architecture):
    config = ModelConfig(
        vocab_size=13, d_model=12, num_layers=2, dropout=0.0, num_heads=1, architecture=architecture
    )
    encoder = RecurrentEncoder(config)
    params = draw(encoder, SOURCE)
    network = torch_network(architecture, 12, 6, num_layers=2, bidirectional=True)
    for i in range(2):
        for name, suffix in (("forward", ""), ("backward", "_reverse")):
            load(network, i, suffix, params[f"encoder_{i}_{name}"], architecture)
    is_token = SOURCE != 0

    def states(params):
        found = encoder.apply({"params": params}, jnp.asarray(SOURCE))
        return jnp.where(is_token[..., None], found, 0)

    gradient = jax.grad(lambda params: jnp.sum(states(params) ** 2))(params)
    table, x = embedded(params["embedding"], SOURCE)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, is_token.sum(1), batch_first=True)
    expected = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)[0]
    check(states(params), gradient["embedding"], expected, table)


@pytest.mark.parametrize("architecture", ["rnn", "lstm"])
def test_decoder_alone_is_torchs_network(architecture):
    config = ModelConfig(
        vocab_size=13, d_model=8, num_layers=2, dropout=0.0, num_heads=1, architecture=architecture
    )
    decoder = RecurrentDecoder(config, cross=False)
    params = draw(decoder, TARGET)
    network = torch_network(architecture, 8, 8, num_layers=2)
    for i in range(2):
        load(network, i, "", params[f"decoder_{i}"], architecture)

    def features(params):
        return decoder.apply({"params": params}, jnp.asarray(TARGET), method="features")

    gradient = jax.grad(lambda params: jnp.sum(features(params) ** 2))(params)
    table, x = embedded(params["embedding"], np.pad(TARGET[:, :-1], ((0, 0), (1, 0))))
    check(features(params), gradient["embedding"], network(x)[0], table)


def test_convolutions_are_torchs():
    config = ModelConfig(
        vocab_size=13, d_model=8, num_layers=3, dropout=0.0, architecture="convolutional",
        kernel_width=3, dilation_base=2,
    )  # fmt: skip
    decoder = ConvolutionalDecoder(config, cross=False)
    params = draw(decoder, TARGET)

    def features(params):
        return decoder.apply({"params": params}, jnp.asarray(TARGET), method="features")

    gradient = jax.grad(lambda params: jnp.sum(features(params) ** 2))(params)
    table, x = embedded(params["embedding"], np.pad(TARGET[:, :-1], ((0, 0), (1, 0))))
    x = x + torch.tensor(np.array(functional.sinusoids(5, 8)))
    for i in range(3):
        layer = torch.nn.Conv1d(8, 16, 3, dilation=2**i, padding=2 * 2**i)
        own = params[f"decoder_{i}"]
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.asarray(own["kernel"]).transpose(2, 1, 0).copy()))
            layer.bias.copy_(torch.tensor(np.asarray(own["bias"])))
        # torch pads both sides: what lies beyond the end is cut off.
        convolved = layer(x.transpose(1, 2))[..., :5].transpose(1, 2)
        x = (x + torch.nn.functional.glu(convolved)) * 0.5**0.5
    check(features(params), gradient["embedding"], x, table)
