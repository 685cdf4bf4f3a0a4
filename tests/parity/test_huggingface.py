"""Folders that Hugging Face writes: the same text, the same logits, the same translations."""

import copy
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from transformer_jax import Search, Transformer, Translator, generate
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.weights.huggingface import read_huggingface
from transformer_jax.weights.imports import import_model

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIGN = ">>deu<<"


@pytest.fixture(scope="module")
def lines():
    """Sides of 300 pairs of the embedded corpus."""
    found = list(examples("train", 300))
    return [each.english for each in found], [each.german for each in found]


@pytest.fixture(scope="module")
def marian(lines, tmp_path_factory):
    """The shape of opus-mt-en-de in small: swish, ids 0 and last for end and padding, two
    SentencePiece models over one list of ids, a sign of the target language."""
    folder = tmp_path_factory.mktemp("marian")
    numbers = {"</s>": 0, "<unk>": 1, SIGN: 2}
    for name, side in zip(("source", "target"), lines):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(side), model_writer=model, vocab_size=200, minloglevel=2,
            model_type="unigram", num_threads=1,
        )  # fmt: skip
        (folder / f"{name}.spm").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        # Some are left out, which are then unknown to both.
        for number in range(3, processor.get_piece_size() - 5):
            numbers.setdefault(processor.id_to_piece(number), len(numbers))
    size = len(numbers) + 1
    (folder / "vocab.json").write_text(json.dumps({**numbers, "<pad>": size - 1}))
    tokenizer = transformers.MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"),
        source_lang="en", target_lang="de",
    )  # fmt: skip
    settings = transformers.MarianConfig(
        vocab_size=size, d_model=24, encoder_layers=3, decoder_layers=2, encoder_ffn_dim=40,
        decoder_ffn_dim=40, encoder_attention_heads=3, decoder_attention_heads=3,
        activation_function="swish", scale_embedding=True, pad_token_id=size - 1, eos_token_id=0,
        bos_token_id=0, decoder_start_token_id=size - 1, forced_eos_token_id=0, init_std=0.3,
        max_position_embeddings=256, share_encoder_decoder_embeddings=True, num_beams=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MarianMTModel(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.final_logits_bias.copy_(torch.randn(1, size))
        model.final_logits_bias[0, 0] = 5  # so that some translations end
    return model, tokenizer


@pytest.fixture
def folder(marian, tmp_path):
    model, tokenizer = marian
    model.save_pretrained(tmp_path / "foreign")
    tokenizer.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign"


def foreign_ids(found):
    """Theirs of each of ours; of one that they have not, any."""
    return np.array([number or 0 for number in found.ids.source])


def test_text_is_cut_as_hugging_face_cuts_it(marian, lines, folder):
    _, tokenizer = marian
    found = read_huggingface(folder)
    number_of = {spelling: number for number, spelling in enumerate(tokenizer.get_vocab())}
    assert len(number_of) == found.config.vocab_size - 1
    texts = [*lines[0][:100], f"{SIGN} {lines[0][0]}", ">>fra<< yes", "  two  spaces ", "\u4e2d 42"]
    unknown = 0
    for text in texts:
        expected = tokenizer(text)["input_ids"]
        ids = found.vocabularies.source.encode(text)
        assert [found.ids.source[number] for number in [*ids, 1]] == expected
        unknown += ids.count(2)
    assert unknown > 3
    for text in lines[1][:100]:
        expected = tokenizer(text_target=text)["input_ids"]
        ids = found.vocabularies.target.encode(text)
        assert [found.ids.target[number] for number in [*ids, 1]] == expected
        assert found.vocabularies.target.decode(ids) == tokenizer.decode(
            expected, skip_special_tokens=True, use_source_tokenizer=False
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-5)])
def test_logits_are_those_of_hugging_face(marian, folder, dtype, tolerance):
    """Of float16 files, too: both compute in float32 with what is stored."""
    copy.deepcopy(marian[0]).to(getattr(torch, dtype)).save_pretrained(folder)
    model = transformers.MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = read_huggingface(folder)
    to_foreign = foreign_ids(found)
    rng = np.random.default_rng(0)
    source = rng.integers(4, len(to_foreign), (3, 7))
    source[:, -1], source[1, 4:], source[1, 3] = 1, 0, 1
    target = rng.integers(4, len(to_foreign), (3, 5))
    params = jax.tree.map(jnp.asarray, found.params)
    logits = Transformer(found.config).apply(
        {"params": params}, jnp.asarray(source), jnp.asarray(target)
    )
    shifted = np.concatenate([np.zeros((3, 1), int), target[:, :-1]], 1)  # padding's row
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(to_foreign[source]),
            attention_mask=torch.tensor(source != 0),
            decoder_input_ids=torch.tensor(to_foreign[shifted]),
        ).logits
    log_probs = expected.log_softmax(-1).numpy()[..., to_foreign]
    expected = expected.numpy()[..., to_foreign]
    once = np.arange(len(to_foreign)) != 3  # which they have not, and which is never predicted
    largest = np.abs(expected).max()
    np.testing.assert_allclose(
        logits[..., once], expected[..., once], atol=tolerance * largest, rtol=0
    )
    np.testing.assert_allclose(
        jax.nn.log_softmax(logits)[..., once], log_probs[..., once], atol=tolerance * largest
    )


def test_greedy_tokens_are_those_of_hugging_face(marian, folder):
    model, _ = marian
    found = read_huggingface(folder)
    to_foreign = foreign_ids(found)
    rng = np.random.default_rng(1)
    source = rng.integers(4, len(to_foreign), (16, 9))
    source[:, -1] = 1
    written = generate(
        Transformer(found.config), found.params, jnp.asarray(source),
        Search(method="greedy", extra_length=11),
    )  # fmt: skip
    expected = model.generate(
        torch.tensor(to_foreign[source]), num_beams=1, do_sample=False, max_length=21,
        bad_words_ids=[[model.config.pad_token_id]],
    ).numpy()  # fmt: skip
    for mine, length, theirs in zip(written.tokens[:, 0], written.lengths[:, 0], expected):
        np.testing.assert_array_equal(to_foreign[mine[:length]], theirs[1 : length + 1])


def test_run_folder_translates_as_hugging_face(marian, lines, folder, tmp_path):
    """From text to text, after the source is gone."""
    model, tokenizer = marian
    expected = {}
    for text in lines[0][:40]:
        [written] = model.generate(
            **tokenizer([text], return_tensors="pt"), num_beams=1, do_sample=False, max_length=50,
            bad_words_ids=[[model.config.pad_token_id]],
        )  # fmt: skip
        if len(written) < 50:
            expected[text] = tokenizer.decode(
                written, skip_special_tokens=True, use_source_tokenizer=False
            )
    assert len(expected) > 10
    run = import_model(folder, tmp_path / "run")
    assert run.origin is not None
    assert (run.origin.format, run.config.data.languages) == ("huggingface", ("en", "de"))
    for path in folder.iterdir():
        path.unlink()
    translator = Translator.load(tmp_path / "run")
    assert translator.translate(expected, method="greedy") == list(expected.values())


def test_shapes_are_those_that_the_model_would_begin_with(folder):
    found = read_huggingface(folder)
    shapes = jax.eval_shape(
        Transformer(found.config).init, jax.random.key(0), jnp.ones((1, 1), int),
        jnp.ones((1, 1), int),
    )["params"]  # fmt: skip
    assert jax.tree.map(np.shape, found.params) == jax.tree.map(lambda x: x.shape, shapes)
