"""Every format in: what was written comes back, and is used; every export is refused by name."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.weights.folders import MAKERS
from tests.weights.models import CONFIGS, LINES, check_equal_models, make_translator
from transformer_jax import Translator, UserError
from transformer_jax.weights import import_model
from transformer_jax.weights.ctranslate2 import read_ctranslate2, write_ctranslate2
from transformer_jax.weights.fairseq import read_fairseq
from transformer_jax.weights.huggingface import read_huggingface, write_huggingface
from transformer_jax.weights.imports import recognize_format
from transformer_jax.weights.marian import read_marian, write_marian
from transformer_jax.weights.marian_files import read_tokens

READERS = {
    "huggingface": read_huggingface, "ctranslate2": read_ctranslate2, "marian": read_marian,
    "fairseq": read_fairseq,
}  # fmt: skip
OPTIONS = {
    "huggingface": {"position_encoding": "concatenated"},
    "pytorch": {"position_encoding": "concatenated"},
    "marian": {"position_encoding": "t2t"}, "marian_bin": {"position_encoding": "t2t"},
    "fairseq": {
        "position_encoding": "t2t", "first_position": 2, "start_id": 1, "norm_epsilon": 1e-5,
    },
}  # fmt: skip
OPTIONS["fairseq_legacy"] = OPTIONS["fairseq"]


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "ctranslate2_int8"])
def test_model_comes_back_bit_for_bit(name, tmp_path):
    path = MAKERS[name](tmp_path)
    found = READERS[recognize_format(path)](path)
    check_equal_models(make_translator(**OPTIONS.get(name, {})), found)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_model_passes_through_ctranslate2(name, tmp_path):
    translator = make_translator(**CONFIGS[name])
    write_ctranslate2(translator, tmp_path)
    check_equal_models(translator, read_ctranslate2(tmp_path))


def test_paper_positions_leave_by_a_permutation_and_come_back(tmp_path):
    """Sines alternate with cosines here and stand before them there."""
    translator = make_translator()
    write_huggingface(translator, tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    table = np.asarray(translator.params["embedding"])
    np.testing.assert_array_equal(theirs["model.shared.weight"][:-1, :8], table[:, ::2])
    kernel = translator.params["encoder_0"]["feed_forward"]["kernel_in"]
    np.testing.assert_array_equal(
        theirs["model.encoder.layers.0.fc1.weight"][:, 8:], kernel[1::2].T
    )
    check_equal_models(translator, read_huggingface(tmp_path))


def test_int8_is_off_by_half_a_step_at_most(tmp_path):
    found = read_ctranslate2(MAKERS["ctranslate2_int8"](tmp_path))
    exact = make_translator(tied_embeddings="none").params
    for path, leaf in jax.tree_util.tree_leaves_with_path(exact):
        other = found.params
        for key in path:
            other = other[key.key]
        if leaf.ndim < 2:
            np.testing.assert_array_equal(other, leaf)
            continue
        # Rows of theirs: of tables they are ours, of kernels our columns.
        axis = 1 if "embedding" in str(path[-1]) else 0
        step = np.abs(leaf).max(axis=axis, keepdims=True) / 127
        assert (np.abs(other - leaf) <= 0.501 * step).all()


def test_rows_of_two_special_tokens_are_predicted_once(tmp_path):
    """Whose row ends a sentence is not padding's, or the start's, too: a sum over rows would count
    it twice."""
    translator = make_translator(start_id=2)
    write_ctranslate2(translator, tmp_path)
    found = read_ctranslate2(tmp_path)
    assert found.ids.target[:4] == [0, 1, 2, 2] and found.config.start_id == 3
    assert found.params["output_bias"][3] == -1e9 and not found.params["output_bias"][:3].any()


def test_tokens_of_any_line_separator_come_back(tmp_path):
    tokens = ["<pad>", "</s>", "<unk>", "<s>", "\u2028", "\u0085a", '"', "\\x", "\x7f", "'"]
    lines = [f"{json.dumps(token, ensure_ascii=False)}: {n}\n" for n, token in enumerate(tokens)]
    (tmp_path / "vocab.yml").write_text("".join(lines), encoding="utf-8")
    assert read_tokens(tmp_path / "vocab.yml") == tokens


@pytest.mark.parametrize("name", ["ctranslate2", "marian", "fairseq"])
def test_imported_run_translates_without_its_source(name, tmp_path):
    (tmp_path / "foreign").mkdir()
    run = import_model(MAKERS[name](tmp_path / "foreign"), tmp_path / "run")
    for path in (tmp_path / "foreign").iterdir():
        path.unlink()
    assert run.origin is not None and run.origin.format == name
    expected = make_translator(**OPTIONS.get(name, {}))
    found = Translator.load(tmp_path / "run")
    scores = found.score(LINES[:4], LINES[4:8])
    np.testing.assert_allclose(scores, expected.score(LINES[:4], LINES[4:8]), rtol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_pieces_alone_are_a_vocabulary_of_marian(tmp_path, named):
    """Its ids are those of a SentencePiece model, where there is no list of tokens."""
    path = MAKERS["marian"](tmp_path)
    (tmp_path / "vocab.yml").unlink()
    (tmp_path / "decoder.yml").write_text("vocabs: [source.spm, source.spm]\n")
    if not named:
        (tmp_path / "decoder.yml").unlink()
    check_equal_models(make_translator(**OPTIONS["marian"]), read_marian(path))


REFUSED = {
    "d_k": ({"d_k": 4, "d_v": 8}, "d_k 4 cannot be expressed in {}, only 8"),
    "additive": (
        {"attention_score": "additive"}, "attention_score 'additive' cannot be expressed in {}"
    ),
    "batch norm": ({"normalization": "batch"}, "normalization 'batch' cannot be expressed in {}"),
    "window": ({"attention_radius": 3}, "attention_radius 3 cannot be expressed in {}, only None"),
    "words": (
        {"cross_attention_radius": 1}, "cross_attention_radius 1 cannot be expressed in {}, only N"
    ),
}  # fmt: skip
WRITERS = {
    "CTranslate2": write_ctranslate2, "Hugging Face's Marian": write_huggingface,
    "Marian": write_marian,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_format_has_is_refused_before_writing(name, tmp_path):
    options, message = REFUSED[name]
    for format_name, write in WRITERS.items():
        with pytest.raises(UserError, match=message.format(format_name)):
            write(make_translator(**options), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (write_huggingface, {"norm_placement": "pre"}, "norm_placement 'pre' cannot be expressed"),
        (write_huggingface, {"position_encoding": "t2t"}, "only 'paper' or 'concatenated'"),
        (write_huggingface, {"tied_embeddings": "none"}, "tied_embeddings 'none' cannot"),
        (write_marian, {}, "position_encoding 'paper' cannot be expressed in Marian, only 't2t'"),
        (write_marian, {"position_encoding": "t2t", "activation": "gelu"}, "activation 'gelu'"),
        (write_ctranslate2, {"position_encoding": "none"}, "position_encoding 'none' cannot be"),
    ],
)
def test_what_one_format_has_not_is_refused_by_name(write, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write(make_translator(**options), tmp_path)
    assert not list(tmp_path.iterdir())
