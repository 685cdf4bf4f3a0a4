"""The same weights in Hugging Face's MarianMTModel: concatenated positions, PAD as the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.golden import named
from transformer_jax import ModelConfig, Transformer, functional

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(
            vocab_size=23, d_model=24, d_ff=40, num_heads=3, num_layers=2, dropout=0.0,
            position_encoding="concatenated", norm_epsilon=1e-5,
        ),
        ModelConfig(
            vocab_size=37, d_model=16, d_ff=64, num_heads=4, num_layers=3, dropout=0.0,
            position_encoding="concatenated", norm_epsilon=1e-5,
        ),
    ],
    ids=["24x2", "16x3"],
)  # fmt: skip
def test_logits_and_gradients(config):
    compare(config)


def compare(config):
    """Ours beside Marian's; (parameters, Marian's numbers by name)."""
    settings = transformers.MarianConfig(
        vocab_size=config.vocab_size, d_model=config.d_model, encoder_layers=config.num_layers,
        decoder_layers=config.num_layers, encoder_ffn_dim=config.d_ff,
        decoder_ffn_dim=config.d_ff, encoder_attention_heads=config.num_heads,
        decoder_attention_heads=config.num_heads, activation_function="relu", dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, scale_embedding=True, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=1, init_std=0.3,
        max_position_embeddings=32, share_encoder_decoder_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    marian = transformers.MarianMTModel(settings).eval()
    with torch.no_grad():
        for parameter in marian.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    params = from_marian(config, marian)
    source = np.array([[4, 5, 6, 7, 1], [8, 9, 1, 0, 0]])
    target = np.array([[9, 8, 7, 1], [5, 1, 0, 0]])
    model = Transformer(config)
    expected_tree = jax.eval_shape(
        model.init, jax.random.key(0), jnp.array(source), jnp.array(target)
    )["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, expected_tree)

    def loss(params):
        logits = model.apply({"params": params}, jnp.array(source), jnp.array(target))
        return functional.label_smoothed_cross_entropy(logits, jnp.array(target), 0.1)[0], logits

    (_, jax_logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    shifted = np.concatenate([np.zeros((2, 1), int), target[:, :-1]], 1)
    logits = marian(
        input_ids=torch.tensor(source),
        attention_mask=torch.tensor(source != 0),
        decoder_input_ids=torch.tensor(shifted),
    ).logits
    log_probs = torch.log_softmax(logits, -1)
    share = 0.1 / (config.vocab_size - 1)
    picked = log_probs.gather(-1, torch.tensor(target)[..., None])[..., 0]
    per_token = -(1 - 0.1 - share) * picked - share * log_probs.sum(-1)
    (per_token * torch.tensor(target != 0)).sum().backward()
    real = target != 0
    np.testing.assert_allclose(
        np.asarray(jax_logits)[real], logits.detach().numpy()[real], atol=1e-5
    )
    theirs = from_marian(config, marian, gradient=True)
    flat = dict(jax.tree_util.tree_leaves_with_path(grads))
    largest = max(float(jnp.abs(g).max()) for g in flat.values())
    for path, expected in jax.tree_util.tree_leaves_with_path(theirs):
        found = flat[path]
        if [key.key for key in path[-2:]] == ["key", "bias"]:
            # Softmax ignores a shift of all scores: zero in theory, rounding on both sides.
            assert max(float(jnp.abs(g).max()) for g in (found, expected)) < 1e-6 * largest
            continue
        scale = max(float(jnp.abs(expected).max()), 1e-3 * largest)
        np.testing.assert_allclose(found, expected, atol=1e-4 * scale, err_msg=str(path))
    return params, {
        "logits": logits.detach().numpy()[real],
        **named("gradient", theirs),
    }


def from_marian(config, marian, gradient=False):
    def value(parameter):
        return jnp.asarray((parameter.grad if gradient else parameter.detach()).numpy())

    def linear(module):
        return {"kernel": value(module.weight).T, "bias": value(module.bias)}

    def norm(module):
        return {"gain": value(module.weight), "bias": value(module.bias)}

    def attention(module):
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        return {ours: linear(getattr(module, theirs)) for ours, theirs in names.items()}

    def feed_forward(layer):
        return {
            "kernel_in": value(layer.fc1.weight).T, "bias_in": value(layer.fc1.bias),
            "kernel_out": value(layer.fc2.weight).T, "bias_out": value(layer.fc2.bias),
        }  # fmt: skip

    params = {"embedding": value(marian.model.shared.weight)}
    for n in range(config.num_layers):
        layer = marian.model.encoder.layers[n]
        params[f"encoder_{n}"] = {
            "self_attention": attention(layer.self_attn),
            "self_attention_norm": norm(layer.self_attn_layer_norm),
            "feed_forward": feed_forward(layer),
            "feed_forward_norm": norm(layer.final_layer_norm),
        }
        layer = marian.model.decoder.layers[n]
        params[f"decoder_{n}"] = {
            "self_attention": attention(layer.self_attn),
            "self_attention_norm": norm(layer.self_attn_layer_norm),
            "cross_attention": attention(layer.encoder_attn),
            "cross_attention_norm": norm(layer.encoder_attn_layer_norm),
            "feed_forward": feed_forward(layer),
            "feed_forward_norm": norm(layer.final_layer_norm),
        }
    return params
