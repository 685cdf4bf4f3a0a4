"""Models of ours in other engines, and theirs here: Hugging Face, CTranslate2, Marian, fairseq."""

import argparse
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.weights.models import CONFIGS, LINES, check_equal_models, make_translator
from transformer_jax import Search, Transformer, generate
from transformer_jax.weights.ctranslate2 import read_ctranslate2, write_ctranslate2
from transformer_jax.weights.fairseq import read_fairseq
from transformer_jax.weights.huggingface import read_huggingface, write_huggingface
from transformer_jax.weights.marian import MODEL, read_marian, write_marian

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ctranslate2 = pytest.importorskip("ctranslate2")


def engine(folder, **options):
    return ctranslate2.Translator(str(folder), inter_threads=1, intra_threads=1, **options)


def make(folder):
    folder.mkdir()
    return folder


def tokens_of(vocabulary, lines):
    return [vocabulary.tokens(vocabulary.encode(line)) for line in lines]


def greedy_tokens(config, params, ids, count=20):
    """The first tokens of the greedy translation of a sentence, without EOS."""
    search = Search(method="greedy", extra_length=count)
    params = jax.tree.map(jnp.asarray, params)
    written = generate(Transformer(config), params, jnp.array([[*ids, 1]]), search)
    length = int(written.lengths[0, 0])
    return [n for n in written.tokens[0, 0, :length].tolist() if n != 1][:count]


@pytest.mark.parametrize("name", CONFIGS)
def test_ctranslate2_computes_what_we_do(name, tmp_path):
    translator = make_translator(**CONFIGS[name])
    write_ctranslate2(translator, tmp_path)
    of_source, of_target = translator.vocabularies
    found = engine(tmp_path).translate_batch(
        tokens_of(of_source, LINES[:8]), beam_size=1, max_decoding_length=20,
        suppress_sequences=[[of_target.tokens([row])[0]] for row in (0, 3)],
    )  # fmt: skip
    for line, theirs in zip(LINES, found):
        ours = greedy_tokens(translator.model.config, translator.params, of_source.encode(line))
        assert of_target.tokens(ours) == theirs.hypotheses[0]
    scored = engine(tmp_path).score_batch(
        tokens_of(of_source, LINES), tokens_of(of_target, LINES[::-1])
    )
    theirs = [sum(each.log_probs) for each in scored]
    np.testing.assert_allclose(translator.score(LINES, LINES[::-1]), theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int16", "int8"])
def test_smaller_dtypes_are_those_of_ctranslate2(dtype, tmp_path):
    """What its own converter makes of the same model is read, and written, as the same numbers."""
    translator = make_translator(position_encoding="concatenated", norm_epsilon=1e-5)
    write_huggingface(translator, make(tmp_path / "foreign"))
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "foreign"))
    converter.convert(str(tmp_path / "theirs"), quantization=dtype)
    write_ctranslate2(translator, make(tmp_path / "ours"), dtype)
    ours, theirs = (read_ctranslate2(tmp_path / who) for who in ("ours", "theirs"))
    kernel = ("encoder_0", "self_attention", "query", "kernel")
    for found in (ours, theirs):
        leaf = found.params
        for key in kernel:
            leaf = leaf[key]
        exact = np.asarray(translator.params["encoder_0"]["self_attention"]["query"]["kernel"])
        assert 0 < np.abs(leaf - exact).max() < {"int8": 2e-2}.get(dtype, 5e-3)
    shared = jax.tree.leaves({k: v for k, v in ours.params.items() if k.startswith("encoder")})
    others = jax.tree.leaves({k: v for k, v in theirs.params.items() if k.startswith("encoder")})
    for mine, other in zip(shared, others, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert engine(tmp_path / "ours").translate_batch(
        tokens_of(translator.vocabulary, LINES[:2]), beam_size=2
    )


def test_folder_of_ctranslate2s_own_converter_translates_alike(tmp_path):
    translator = make_translator(position_encoding="concatenated", norm_epsilon=1e-5)
    write_huggingface(translator, make(tmp_path / "foreign"))
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "foreign"))
    converter.convert(str(tmp_path / "theirs"))
    found = read_ctranslate2(tmp_path / "theirs")
    assert found.config.start_id == 0 and found.config.position_encoding == "concatenated"
    of_source, of_found = translator.vocabulary, found.vocabularies.source
    suppressed = [["<row 0>"], ["<s>"]]
    for line in LINES[:8]:
        pieces = of_source.tokens(of_source.encode(line))
        [theirs] = engine(tmp_path / "theirs").translate_batch(
            [pieces], beam_size=1, max_decoding_length=20, suppress_sequences=suppressed
        )
        ours = greedy_tokens(found.config, found.params, of_found.encode(line))
        assert of_found.tokens(ours) == theirs.hypotheses[0]


@pytest.mark.parametrize("name", ["paper", "decoder tied, swish, depths, bias, bos"])
def test_hugging_face_computes_what_we_do(name, tmp_path):
    """After a permutation of the model's axis, where positions alternate."""
    options = {**CONFIGS[name], "norm_epsilon": 1e-5}
    if options.get("position_encoding") != "concatenated":
        options["position_encoding"] = "paper"
    options |= {"norm_placement": "post"}
    translator = make_translator(**options)
    write_huggingface(translator, tmp_path)
    model = transformers.MarianMTModel.from_pretrained(tmp_path).eval()
    tokenizer = transformers.MarianTokenizer.from_pretrained(tmp_path)
    config = translator.model.config
    rng = np.random.default_rng(0)
    source = rng.integers(4, config.vocab_size, (3, 7))
    source[:, -1], source[1, 4:], source[1, 3] = 1, 0, 1
    target = rng.integers(4, config.target_size, (3, 5))
    logits = translator.model.apply(
        {"params": translator.params}, jnp.asarray(source), jnp.asarray(target)
    )
    start = np.full((3, 1), model.config.decoder_start_token_id)
    shifted = np.concatenate([start, target[:, :-1]], 1)
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(source), attention_mask=torch.tensor(source != 0),
            decoder_input_ids=torch.tensor(shifted),
        ).logits  # fmt: skip
    expected = expected.log_softmax(-1).numpy()[..., : config.target_size]
    np.testing.assert_allclose(
        jax.nn.log_softmax(logits), expected, atol=1e-5 * np.abs(expected).max()
    )
    of_source, of_target = translator.vocabularies
    for line in LINES[:5]:
        batch = tokenizer([line], return_tensors="pt")
        assert batch["input_ids"][0].tolist() == [*of_source.encode(line), 1]
        [written] = model.generate(**batch, num_beams=1, do_sample=False, max_length=21)
        ours = greedy_tokens(config, translator.params, of_source.encode(line))
        theirs = [row for row in written[1:].tolist() if row != 1]
        assert ours == theirs
        text = tokenizer.decode(theirs, skip_special_tokens=True, use_source_tokenizer=False)
        assert text == of_target.decode(ours).strip()
    found = read_huggingface(tmp_path)
    assert found.max_length == translator.max_length
    check_equal_models(translator, found)


def test_pytorch_files_are_read_as_safetensors_are(tmp_path):
    translator = make_translator(position_encoding="concatenated", norm_epsilon=1e-5)
    write_huggingface(translator, tmp_path)
    model = transformers.MarianMTModel.from_pretrained(tmp_path)
    expected = read_huggingface(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for is_zip in (True, False):
        torch.save(
            model.state_dict(), tmp_path / "pytorch_model.bin",
            _use_new_zipfile_serialization=is_zip,
        )  # fmt: skip
        found = read_huggingface(tmp_path)
        assert found.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_marians_names_are_those_that_ctranslate2_reads(tmp_path):
    """Its converter takes other positions and another epsilon; all else is equal bit for bit."""
    for placement, tied in (("post", "all"), ("pre", "decoder"), ("pre", "none")):
        folder = tmp_path / f"{placement}-{tied}"
        folder.mkdir()
        translator = make_translator(
            position_encoding="t2t",
            norm_placement=placement,
            tied_embeddings=tied,
            decoder_layers=1,
        )
        write_marian(translator, folder)
        converter = ctranslate2.converters.MarianConverter(
            str(folder / MODEL), [str(folder / "vocab.yml")]
        )
        converter.convert(str(folder / "ct2"))
        found = read_ctranslate2(folder / "ct2")
        assert found.config.start_id == 0
        mine = read_marian(folder / MODEL)
        jax.tree.map(np.testing.assert_array_equal, found.params, mine.params)
        assert replace(
            found.config, position_encoding="t2t", norm_epsilon=1e-6, max_positions=1024
        ) == mine.config  # fmt: skip
        check_equal_models(translator, mine)


@pytest.fixture(scope="module")
def fsmt():
    """fairseq's transformer as Hugging Face has it, with fairseq's names, positions and start."""
    config = transformers.FSMTConfig(
        langs=["en", "de"], src_vocab_size=40, tgt_vocab_size=40, d_model=16, encoder_layers=2,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_ffn_dim=24, activation_function="relu", init_std=0.3, max_position_embeddings=64,
        scale_embedding=True, tie_word_embeddings=False, num_beams=1, max_length=20,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.FSMTForConditionalGeneration(config).eval()


@pytest.mark.parametrize("is_old", [False, True])
def test_fairseq_checkpoint_computes_what_torch_does(fsmt, is_old, tmp_path):
    arrays = {
        name.removeprefix("model."): tensor
        for name, tensor in fsmt.state_dict().items()
        if "embed_positions" not in name
    }
    options = {
        "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_normalize_before": False,
        "decoder_normalize_before": False, "source_lang": "en", "target_lang": "de",
        "activation_fn": "relu", "dropout": 0.1,
    }  # fmt: skip
    arrays |= {f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    tree = {"args": None, "cfg": {"model": options, "task": {}}, "model": arrays}
    if is_old:
        tree = {"args": argparse.Namespace(**options), "model": old_names(arrays)}
    path = tmp_path / "model.pt"
    torch.save(tree, path, _use_new_zipfile_serialization=not is_old)
    for language in ("en", "de"):
        lines = "".join(f"w{n}{language} {n}\n" for n in range(36))
        (tmp_path / f"dict.{language}.txt").write_text(lines)
    found = read_fairseq(path)
    assert found.languages == ("en", "de") and not found.vocabularies.joint
    rng = np.random.default_rng(0)
    foreign = [np.array(ids) for ids in found.ids]
    source, target = (rng.integers(4, 40, (3, length)) for length in (7, 5))
    source[:, -1], source[1, 4:], source[1, 3] = 1, 0, 1
    logits = Transformer(found.config).apply(
        {"params": jax.tree.map(jnp.asarray, found.params)},
        jnp.asarray(source),
        jnp.asarray(target),
    )
    shifted = np.concatenate([np.ones((3, 1), int), target[:, :-1]], 1)
    with torch.no_grad():
        expected = fsmt(
            input_ids=torch.tensor(foreign[0][source]), attention_mask=torch.tensor(source != 0),
            decoder_input_ids=torch.tensor(foreign[1][shifted]), use_cache=False,
        ).logits.numpy()[..., foreign[1]]  # fmt: skip
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def old_names(arrays):
    """As fairseq had them before 2019: one product for three, norms by number, embed_out."""
    found = {}
    for name, tensor in arrays.items():
        if "decoder.layers" in name and "layer_norm" in name:
            for number, new in enumerate(("self_attn", "encoder_attn", "final")):
                name = name.replace(f"{new}_layer_norm", f"layer_norms.{number}")
        if "encoder.layers" in name and "layer_norm" in name:
            for number, new in enumerate(("self_attn", "final")):
                name = name.replace(f"{new}_layer_norm", f"layer_norms.{number}")
        name = name.replace("decoder.output_projection.weight", "decoder.embed_out")
        if "_attn." in name and any(f"{part}_proj" in name for part in "kv"):
            continue
        if "_attn.q_proj" in name:
            tensor = torch.cat([arrays[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("q_proj.", "in_proj_")
        found[name] = tensor
    return found
