"""A folder of Hugging Face's shape, without Hugging Face: imported, used, damaged, refused."""

import io
import json

import jax
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

from transformer_jax import ModelConfig, Run, Translator, UserError, average
from transformer_jax.cli import main
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.pieces import PieceVocabulary
from transformer_jax.data.splitting import LineSplitter
from transformer_jax.data.vocabulary import Vocabularies, VocabularyError
from transformer_jax.models.families import build_model
from transformer_jax.run.variables import load_variables
from transformer_jax.tasks import Task
from transformer_jax.weights import export_model, import_model
from transformer_jax.weights.correspondence import arrays_from_params, pairs_of
from transformer_jax.weights.huggingface import names_of, read_huggingface

SETTINGS = {
    "model_type": "marian", "d_model": 16, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "activation_function": "swish", "scale_embedding": True,
    "eos_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip


def train_pieces(**options):
    """A SentencePiece model of English."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(each.english for each in examples("train", 200)), vocab_size=90,
        model_writer=written, minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return written.getvalue()


@pytest.fixture(scope="module")
def model():
    return train_pieces()


@pytest.fixture
def folder(model, tmp_path):
    """As save_pretrained writes it: ids 0 and last for end and padding."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(number) for number in range(3, processor.get_piece_size())]
    numbers = {
        name: number for number, name in enumerate(["</s>", "<unk>", ">>deu<<", *pieces, "<pad>"])
    }
    size = len(numbers)
    settings = {
        **SETTINGS, "vocab_size": size, "pad_token_id": size - 1,
        "decoder_start_token_id": size - 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps(numbers))
    languages = {"source_lang": "en", "target_lang": "de"}
    (folder / "tokenizer_config.json").write_text(json.dumps(languages))
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    write_weights(folder)
    return folder


def write_weights(folder, name="model.safetensors"):
    """Arrays of the configuration that the folder holds, drawn at random."""
    settings = json.loads((folder / "config.json").read_text())
    config = ModelConfig(
        vocab_size=settings["vocab_size"], d_model=16, d_ff=24, num_heads=2, num_layers=2,
        decoder_layers=1, output_bias=True,
    )  # fmt: skip
    shapes = Task().step_functions(build_model(config)).shapes().params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.3, shapes)
    arrays = arrays_from_params(pairs_of(config, names_of(True)), params)
    arrays["final_logits_bias"] = arrays["final_logits_bias"][None]
    save_file(arrays, folder / name)


def test_imported_run_holds_the_parameters(folder, tmp_path):
    run = import_model(folder, tmp_path / "run")
    arrays = load_file(folder / "model.safetensors")
    variables, name = load_variables(run)
    params = variables["params"]
    assert name == "step 0"
    kernel = params["decoder_0"]["cross_attention"]["value"]["kernel"]
    theirs = arrays["model.decoder.layers.0.encoder_attn.v_proj.weight"]
    np.testing.assert_array_equal(kernel, theirs.T)
    table, theirs = params["embedding"], arrays["model.shared.weight"]
    # Padding, end, unknown and start, and then all others in their order.
    np.testing.assert_array_equal(table[:6], theirs[[-1, 0, 1, -1, 2, 3]])
    assert params["output_bias"][3] == -1e9
    assert run.config.model.activation == "swish"
    assert (run.config.model.encoder_depth, run.config.model.decoder_depth) == (2, 1)
    assert run.vocabularies.joint and len(run.vocabularies.distinct) == 1
    assert run.vocabularies.source.encode(">>deu<<") == [4]


def test_imported_run_is_like_any_other(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["import", "foreign", "--run-dir", "run"])
    for path in folder.iterdir():
        path.unlink()
    main(["inspect", "--run-dir", "run"])
    shown = capsys.readouterr().out
    assert "imported from foreign (huggingface), SHA-256 " in shown
    assert "checkpoints/0: intact, parameters alone" in shown
    translator = Translator.load("run")
    assert translator.languages == ("en", "de")
    [score] = translator.score(["the dog sleeps ."], ["the dog"])
    assert -1000 < score < 0
    assert average(tmp_path / "run") == [0]
    assert Translator.load("run").score(["the dog sleeps ."], ["the dog"]) == [score]
    with pytest.raises(SystemExit, match="imported from foreign, and no training to resume"):
        main(["train", "--run-dir", "run"])


def test_tag_of_an_imported_model_begins_every_source(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["import", "foreign", "--run-dir", "tagged", "--source-tag", ">>deu<<"])
    import_model(folder, "plain")
    tagged, plain = (Translator.load(name) for name in ("tagged", "plain"))
    lines = ["the dog sleeps .", ">>deu<< the dog"]
    spelled = [">>deu<< the dog sleeps .", ">>deu<< the dog"]
    assert tagged.vocabularies.source.encode(lines[0])[0] == 4
    np.testing.assert_array_equal(tagged.score(lines, lines), plain.score(spelled, lines))
    assert Run.open(tmp_path / "tagged").config.data.source_tag == ">>deu<<"
    with pytest.raises(UserError, match=r"source_tag >>fra<<: the model has no such token"):
        import_model(folder, "other", ">>fra<<")
    export_model("plain", "safetensors", "one.safetensors")
    with pytest.raises(UserError, match="has what its run began with: leave it out"):
        import_model("one.safetensors", "other", ">>deu<<")
    assert not (tmp_path / "other").exists()


def test_imported_model_is_trained_further(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_model(folder, "run")
    found = list(examples("train", 30))
    (tmp_path / "src").write_text("".join(f"{each.english}\n" for each in found))
    (tmp_path / "tgt").write_text("".join(f"{each.english}\n" for each in found))
    main([
        "train", "--run-dir", "tuned", "--init-from", "run", "--train", "src", "tgt", "--steps",
        "2", "--batch-tokens", "512", "--max-batch-shapes", "1", "--checkpoint-every", "1",
    ])  # fmt: skip
    run = Run.open(tmp_path / "tuned")
    before, _ = load_variables(Run.open(tmp_path / "run"))
    after, _ = load_variables(run, "last")
    moved = np.abs(after["params"]["embedding"] - before["params"]["embedding"]).max()
    assert run.origin is None and 0 < moved < 0.1
    pieces = run.vocabularies.source.encode(found[0].english)
    corpus = run.training_corpus()
    np.testing.assert_array_equal(corpus.source.tokens[: len(pieces)], pieces)


def change(name, value):
    def make(folder):
        settings = json.loads((folder / "config.json").read_text())
        settings[name] = value
        (folder / "config.json").write_text(json.dumps(settings))

    return make


def remove(name):
    return lambda folder: (folder / name).unlink()


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def arrays(edit):
    def make(folder):
        found = load_file(folder / "model.safetensors")
        edit(found)
        save_file(found, folder / "model.safetensors")

    return make


NORM = "model.encoder.layers.0.final_layer_norm.weight"
BAD = {
    "another family": (change("model_type", "bart"), "model_type is 'bart', and only 'marian'"),
    "pre-norm": (change("normalize_before", True), "normalize_before is True, and only False"),
    "no number": (change("d_model", "16"), "d_model is '16', and only 16 can be imported"),
    "true is no number": (
        change("encoder_attention_heads", True), "encoder_attention_heads must be a whole number"
    ),
    "heads": (change("decoder_attention_heads", 4), "decoder_attention_heads is 4, and only 2"),
    "activation": (change("activation_function", "tanh"), "activation_function is 'tanh'"),
    "width": (change("d_model", 32), "d_model is 32, and only 16 can be imported"),
    "huge width": (change("d_model", 2**31 - 2), "and only 16 can be imported"),
    "huge vocabulary": (change("vocab_size", 2**31 - 1), "vocab_size is 2147483647, and only"),
    "huge network": (change("encoder_ffn_dim", 2**31 - 1), "and only 24 can be imported"),
    "huge depth": (change("encoder_layers", 2**31 - 1), "encoder_layers must be a whole number"),
    "no depth": (change("encoder_layers", 0), "encoder_layers must be a whole number from 1 to"),
    "no positions": (change("max_position_embeddings", 1), "must be a whole number from 2"),
    "heads that do not divide": (change("encoder_attention_heads", 3), "decoder_attention_heads"),
    "dropout": (change("dropout", "a"), "config.json: dropout must be in [0, 1), not 'a'"),
    "huge dropout": (change("dropout", 10**400), "dropout must be in [0, 1)"),
    "end elsewhere": (change("eos_token_id", 5), "but foreign/vocab.json gives '</s>' the id 0"),
    "padding elsewhere": (change("pad_token_id", 5), "gives '<pad>' the id"),
    "two vocabularies": (
        replace("tokenizer_config.json", b'{"separate_vocabs": true}'), "separate_vocabs is True"
    ),
    "surrogate": (replace("vocab.json", b'{"<unk>": 1, "\\ud800": 2}'), "unpaired surrogate"),
    "other layers": (change("decoder_layers", 2), "has no array 'model.decoder.layers.1"),
    "fewer layers": (change("encoder_layers", 1), "arrays that no parameter of this model holds"),
    "id": (change("eos_token_id", 4000), "eos_token_id must be a whole number from 0 to"),
    "no weights": (remove("model.safetensors"), "model.safetensors cannot be read"),
    "no list": (remove("vocab.json"), "is of no format that can be imported"),
    "no model": (remove("target.spm"), "target.spm: No such file"),
    "damaged model": (replace("source.spm", b"x"), "source.spm: not a SentencePiece model"),
    "no JSON": (replace("config.json", b"{"), "config.json is damaged"),
    "a list": (replace("vocab.json", b"[]"), "vocab.json is damaged: it holds no object"),
    "twice": (replace("vocab.json", b'{"a": 1, "<unk>": 1}'), "gives two tokens the same id"),
    "no unknown": (replace("vocab.json", b'{"a": 1}'), "vocab.json has no '<unk>'"),
    "damaged weights": (replace("model.safetensors", b"\xff" * 99), "model.safetensors is damaged"),
    "header longer than the file": (
        replace("model.safetensors", (2**40).to_bytes(8, "little")), "model.safetensors is damaged"
    ),
    "an array more": (arrays(lambda a: a.update(x=np.ones(1))), "e.g. 'x': it is a model of"),
    "an array less": (arrays(lambda a: a.pop(NORM)), f"has no array '{NORM}'"),
    "whole numbers": (
        arrays(lambda a: a.update({NORM: np.ones(16, np.int8)})), "is of dtype int8, and only"
    ),
    "not a number": (
        arrays(lambda a: a.update({NORM: np.full(16, np.nan, np.float16)})), "are not finite"
    ),
    "beyond float32": (arrays(lambda a: a.update({NORM: np.full(16, 1e300)})), "are not finite"),
    "rows of a bias": (
        arrays(lambda a: a.update(final_logits_bias=np.ones(9, np.float32))), "has shape (9,), not"
    ),
    "a table of one axis": (
        arrays(lambda a: a.update({"model.shared.weight": np.ones(9, np.float32)})), "of two axes"
    ),
    "another output table": (
        arrays(lambda a: a.update({"lm_head.weight": a["model.shared.weight"] + 1})), "not tied"
    ),
    "a vector for a matrix": (arrays(lambda a: a.update({NORM: np.ones((2, 8))})), "is (2, 8)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_model_is_refused_in_one_line(folder, tmp_path, monkeypatch, capsys, name):
    make, message = BAD[name]
    make(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["import", "foreign", "--run-dir", "run"])
    error = str(stopped.value.code)
    assert message in error and "\n" not in error and not capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_import_overwrites_nothing(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        import_model(folder, tmp_path / "run")
    with pytest.raises(UserError, match="does not exist"):
        import_model(tmp_path / "none", tmp_path / "other")
    assert (tmp_path / "run" / "notes").read_text() == "mine"
    with pytest.raises(UserError, match=r"holds '\[r\]'"):
        import_model(folder, tmp_path / "[r]")
    with pytest.raises(UserError, match="choose another folder"):
        import_model(folder, tmp_path / "run" / "notes" / "new")
    own = folder.rename(tmp_path / "new.partial")
    with pytest.raises(UserError, match="is where"):
        import_model(own, tmp_path / "new")
    assert (own / "config.json").is_file()


def test_pieces_of_two_models_share_one_list(model, tmp_path):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    the, *dog = processor.encode("the dog", out_type=str)
    types = [">>deu<<", the, *dict.fromkeys(dog)]
    first, second = PieceVocabulary(model, types), PieceVocabulary(model, types)
    other = PieceVocabulary(model, types[::-1])
    assert Vocabularies(first, second).joint and not Vocabularies(first, other).joint
    written = [5, *(4 + types.index(piece) for piece in dog)]
    assert first.encode(">>deu<< the dog") == [4, *written]
    assert first.decode([2, *written, 1]) == "the dog"
    assert first.tokens([0, 1, 2, 3, 5]) == ["<pad>", "</s>", "<unk>", "<s>", the]
    first.save(tmp_path)
    assert PieceVocabulary.load(tmp_path).to_bytes() == first.to_bytes()
    with pytest.raises(VocabularyError, match="twice"):
        PieceVocabulary(model, ["a", "a"])
    with pytest.raises(UserError, match="surrogate"):
        first.encode("\ud800")


def test_language_code_stands_before_each_part_of_a_line(model):
    """Of sentences, and of pieces of a sentence that is too long; it counts among the tokens."""
    vocabulary = PieceVocabulary(model, [">>deu<<", *"\u2581abcdefghijklmnopqrstuvwxyz."])
    line = ">>deu<< the dog sleeps. the dog sleeps."
    splitter = LineSplitter(vocabulary, 100, None, ("en", "de"), Pairing())
    parts = splitter.encode(line, 0, "always")
    assert len(parts) == 2 and all(part.count(4) == 1 and part[0] == 4 for part in parts)
    [whole] = splitter.encode(line, 0, "never")
    assert whole == vocabulary.encode(line)
    longest = len(whole) // 3 + 2
    pieces = LineSplitter(vocabulary, longest, None, ("en", "de"), Pairing()).encode(
        line, 0, "never"
    )
    assert len(pieces) > 2 and all(part[0] == 4 and len(part) < longest for part in pieces)
    assert splitter.encode(">>deu<<", 0, "always") == [[4]]


def test_pieces_of_special_symbols_are_unknown():
    """A model may have them for pieces; text cannot forge the end of a sentence all the same."""
    model = train_pieces(user_defined_symbols=["<pad>", "<eos>"])
    vocabulary = PieceVocabulary(model, ["<eos>"])
    assert {"<pad>", "<eos>"} < {*vocabulary._processor.encode("a <pad> <eos>", out_type=str)}
    ids = vocabulary.encode("a <pad> <eos>")
    assert 0 not in ids and ids[-1] == 4


def test_start_with_a_row_of_its_own_keeps_its_logit(folder, tmp_path):
    """It is as the file says, and the table has no row more."""
    change("decoder_start_token_id", 2)(folder)
    found = read_huggingface(folder)
    assert found.config.start_id == 3 and found.params["output_bias"][3] > -10
    run = import_model(folder, tmp_path / "run")
    assert run.config.model.vocab_size == len(json.loads((folder / "vocab.json").read_text()))
    assert Translator.load(tmp_path / "run").score(["the dog"], ["the"])[0] < 0


def test_token_with_the_name_of_a_special_one_is_spelled_by_its_row(folder):
    numbers = json.loads((folder / "vocab.json").read_text())
    numbers["<s>"] = numbers.pop(">>deu<<")
    (folder / "vocab.json").write_text(json.dumps(numbers))
    assert read_huggingface(folder).vocabularies.source.tokens([3, 4]) == ["<s>", "<row 2>"]


def test_long_models_are_imported(folder, tmp_path):
    change("max_position_embeddings", 100_000)(folder)
    assert import_model(folder, tmp_path / "run").config.data.max_length == 25_000
