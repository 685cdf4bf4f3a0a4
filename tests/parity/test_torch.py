"""The same weights in torch.nn.Transformer: logits and gradients of the smoothed loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import ModelConfig, Transformer, functional

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

CONFIGS = [
    ModelConfig(vocab_size=23, d_model=24, d_ff=40, num_heads=3, num_layers=2, dropout=0.0),
    ModelConfig(vocab_size=31, d_model=32, d_ff=16, num_heads=8, num_layers=1, dropout=0.0),
    ModelConfig(
        vocab_size=19,
        d_model=16,
        d_ff=48,
        num_heads=2,
        num_layers=3,
        dropout=0.0,
        norm_placement="pre",
    ),
]


def tensor(x):
    return torch.tensor(np.array(x), requires_grad=True)


def torch_twin(config, params):
    """(module of encoder and decoder, name -> torch tensor for every JAX leaf, transposed)."""
    from torch import nn

    shape = {
        "d_model": config.d_model, "nhead": config.num_heads, "dim_feedforward": config.d_ff,
        "dropout": 0.0, "layer_norm_eps": config.norm_epsilon, "batch_first": True,
        "norm_first": config.norm_placement == "pre",
    }  # fmt: skip

    def final():
        width = config.d_model
        return (
            nn.LayerNorm(width, eps=config.norm_epsilon) if config.norm_placement == "pre" else None
        )

    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(**shape), config.num_layers, final(), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), config.num_layers, final())
    pairs = []  # (torch parameter, function from the params tree to its value)

    def attention(module, p):
        def stack(part):
            axis = 1 if part == "kernel" else 0
            return lambda q: (
                np.concatenate(
                    [np.asarray(p(q)[n][part]) for n in ("query", "key", "value")], axis
                ).T
            )

        pairs.extend([
            (module.in_proj_weight, stack("kernel")),
            (module.in_proj_bias, stack("bias")),
            (module.out_proj.weight, lambda q: np.asarray(p(q)["output"]["kernel"]).T),
            (module.out_proj.bias, lambda q: np.asarray(p(q)["output"]["bias"])),
        ])  # fmt: skip

    def norm(module, p):
        pairs.append((module.weight, lambda q: np.asarray(p(q)["gain"])))
        pairs.append((module.bias, lambda q: np.asarray(p(q)["bias"])))

    def at(*path):
        def follow(tree):
            for name in path:
                tree = tree[name]
            return tree

        return follow

    for stack_name, stack in (("encoder", encoder), ("decoder", decoder)):
        for n, layer in enumerate(stack.layers):
            name = f"{stack_name}_{n}"
            attention(layer.self_attn, at(name, "self_attention"))
            norm(layer.norm1, at(name, "self_attention_norm"))
            last = layer.norm2
            if stack_name == "decoder":
                attention(layer.multihead_attn, at(name, "cross_attention"))
                norm(layer.norm2, at(name, "cross_attention_norm"))
                last = layer.norm3
            norm(last, at(name, "feed_forward_norm"))
            ff = at(name, "feed_forward")
            pairs.extend([
                (layer.linear1.weight, lambda q, ff=ff: np.asarray(ff(q)["kernel_in"]).T),
                (layer.linear1.bias, lambda q, ff=ff: np.asarray(ff(q)["bias_in"])),
                (layer.linear2.weight, lambda q, ff=ff: np.asarray(ff(q)["kernel_out"]).T),
                (layer.linear2.bias, lambda q, ff=ff: np.asarray(ff(q)["bias_out"])),
            ])  # fmt: skip
        if config.norm_placement == "pre":
            norm(stack.norm, at(f"{stack_name}_norm"))
    with torch.no_grad():
        for parameter, value in pairs:
            parameter.copy_(torch.tensor(value(params)))
    return encoder, decoder, pairs


@pytest.mark.parametrize("config", CONFIGS, ids=["24x2", "32x1", "16x3-pre"])
def test_logits_and_gradients(config):
    compare(config)


def compare(config):
    """Ours beside torch's; (parameters, torch's numbers by name)."""
    rng = np.random.default_rng(0)
    source = np.array([[4, 5, 6, 7, 1], [8, 9, 1, 0, 0]])
    target = np.array([[9, 8, 7, 1], [5, 1, 0, 0]])
    model = Transformer(config)
    init = jax.jit(model.init)(jax.random.key(1), jnp.array(source), jnp.array(target))["params"]
    params = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape) * 0.05, x.dtype), init)

    def loss(params):
        logits = model.apply({"params": params}, jnp.array(source), jnp.array(target))
        return functional.label_smoothed_cross_entropy(logits, jnp.array(target), 0.1)[0], logits

    (jax_loss, jax_logits), jax_grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    encoder, decoder, pairs = torch_twin(config, params)
    table = tensor(params["embedding"])
    positions = tensor(functional.sinusoids(8, config.d_model))

    def embed(tokens):
        x = table[torch.tensor(tokens)] * config.d_model**0.5
        x = torch.where(torch.tensor(tokens == 0)[..., None], torch.zeros(()), x)
        return x + positions[: tokens.shape[1]]

    shifted = np.concatenate([np.zeros((2, 1), int), target[:, :-1]], 1)
    padding = torch.tensor(source == 0)
    memory = encoder(embed(source), src_key_padding_mask=padding)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(4)
    out = decoder(embed(shifted), memory, tgt_mask=causal, memory_key_padding_mask=padding)
    logits = out @ table.T
    # The mass of tensor2tensor, e / (V - 1) on the others, from torch's log-probabilities.
    log_probs = torch.log_softmax(logits, -1)
    share = 0.1 / (config.vocab_size - 1)
    picked = log_probs.gather(-1, torch.tensor(target)[..., None])[..., 0]
    per_token = -(1 - 0.1 - share) * picked - share * log_probs.sum(-1)
    torch_loss = (per_token * torch.tensor(target != 0)).sum()
    torch_loss.backward()

    real = target != 0
    np.testing.assert_allclose(
        np.asarray(jax_logits)[real], logits.detach().numpy()[real], atol=1e-5
    )
    np.testing.assert_allclose(float(jax_loss), float(torch_loss.detach()), rtol=1e-5)
    compared = [(table.grad.numpy(), np.asarray(jax_grads["embedding"]))]
    compared += [(parameter.grad.numpy(), value(jax_grads)) for parameter, value in pairs]
    assert sum(np.size(a) for a, _ in compared) == sum(x.size for x in jax.tree.leaves(params))
    largest = max(np.abs(a).max() for a, _ in compared)
    for expected, found in compared:
        np.testing.assert_allclose(
            found, expected, atol=1e-4 * max(np.abs(expected).max(), 1e-3 * largest)
        )
    return params, {
        "logits": logits.detach().numpy()[real],
        "loss": torch_loss.detach().numpy(),
        "gradient embedding": table.grad.numpy(),
    }
