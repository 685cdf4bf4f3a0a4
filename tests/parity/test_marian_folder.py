"""Folders that Hugging Face writes: the same logits, and the same translations."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Search, Transformer, generate
from transformer_jax.weights.correspondence import arrays_from_params
from transformer_jax.weights.marian_folder import pairs_of, read_marian_folder

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V = 37


@pytest.fixture(scope="module")
def marian():
    """The shape of opus-mt-en-de in small: swish, ids 0 and last for end and padding."""
    settings = transformers.MarianConfig(
        vocab_size=V, d_model=24, encoder_layers=3, decoder_layers=2, encoder_ffn_dim=40,
        decoder_ffn_dim=40, encoder_attention_heads=3, decoder_attention_heads=3,
        activation_function="swish", scale_embedding=True, pad_token_id=V - 1, eos_token_id=0,
        bos_token_id=0, decoder_start_token_id=V - 1, forced_eos_token_id=0, init_std=0.3,
        max_position_embeddings=64, share_encoder_decoder_embeddings=True, num_beams=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MarianMTModel(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.final_logits_bias.copy_(torch.randn(1, V))
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-5)])
def test_logits_are_those_of_hugging_face(marian, tmp_path, dtype, tolerance):
    """Of float16 files, too: both compute in float32 with what is stored."""
    copy.deepcopy(marian).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    marian = transformers.MarianMTModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    folder = read_marian_folder(tmp_path)
    to_foreign = np.array(folder.ids)
    rng = np.random.default_rng(0)
    source = rng.integers(4, V, (3, 7))
    source[:, -1], source[1, 4:], source[1, 3] = 1, 0, 1
    target = rng.integers(4, V, (3, 5))
    params = jax.tree.map(jnp.asarray, folder.params)
    found = Transformer(folder.config).apply(
        {"params": params}, jnp.asarray(source), jnp.asarray(target)
    )
    shifted = np.concatenate([np.full((3, 1), 3), target[:, :-1]], 1)
    with torch.no_grad():
        expected = marian(
            input_ids=torch.tensor(to_foreign[source]),
            attention_mask=torch.tensor(source != 0),
            decoder_input_ids=torch.tensor(to_foreign[shifted]),
        ).logits.numpy()
    expected = expected[..., to_foreign]
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_greedy_tokens_are_those_of_hugging_face(marian, tmp_path):
    marian.save_pretrained(tmp_path)
    folder = read_marian_folder(tmp_path)
    to_foreign = np.array(folder.ids)
    rng = np.random.default_rng(1)
    source = rng.integers(4, V, (16, 9))
    source[:, -1] = 1
    found = generate(
        Transformer(folder.config), folder.params, jnp.asarray(source),
        Search(method="greedy", extra_length=11),
    )  # fmt: skip
    expected = marian.generate(
        torch.tensor(to_foreign[source]), num_beams=1, do_sample=False, max_length=21,
        bad_words_ids=[[V - 1]],
    ).numpy()  # fmt: skip
    for mine, length, theirs in zip(found.tokens[:, 0], found.lengths[:, 0], expected):
        np.testing.assert_array_equal(to_foreign[mine[:length]], theirs[1 : length + 1])


def test_out_and_in_again_is_the_same(marian, tmp_path):
    marian.save_pretrained(tmp_path)
    folder = read_marian_folder(tmp_path)
    arrays = arrays_from_params(pairs_of(folder.config), folder.params, folder.ids)
    for name, value in marian.state_dict().items():
        if name in arrays:
            np.testing.assert_array_equal(arrays[name].reshape(value.shape), value.numpy())
    shapes = jax.eval_shape(
        Transformer(folder.config).init, jax.random.key(0), jnp.ones((1, 1), int),
        jnp.ones((1, 1), int),
    )["params"]  # fmt: skip
    assert jax.tree.map(np.shape, folder.params) == jax.tree.map(lambda x: x.shape, shapes)
