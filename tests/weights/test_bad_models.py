"""Damaged folders of CTranslate2, Marian and fairseq: one line each, and nothing is written."""

import json
import struct
import zipfile

import numpy as np
import pytest
import yaml

from tests.weights.folders import MAKERS
from tests.weights.torch_writer import write_torch
from transformer_jax import __version__
from transformer_jax.cli import main
from transformer_jax.weights.ctranslate2_files import read_variables, write_variables
from transformer_jax.weights.marian_files import read_npz
from transformer_jax.weights.torch_files import TorchFile


def settings(name, **changes):
    """Change a JSON file."""

    def make(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **changes}))

    return make


def variables(**changes):
    """Change variables of CTranslate2; / is written __."""

    def make(folder):
        found = read_variables(folder / "model.bin")
        for name, value in changes.items():
            found[name.replace("__", "/")] = np.asarray(value)
        write_variables(found, folder / "model.bin")

    return make


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def options(**changes):
    """Change options of Marian; - is written _."""

    def make(folder):
        found = read_npz(folder / "model.npz")
        key = "special:model.yml"
        known = yaml.safe_load(found[key].tobytes().rstrip(b"\0"))
        known |= {name.replace("_", "-"): value for name, value in changes.items()}
        found[key] = np.frombuffer(yaml.safe_dump(known).encode() + b"\0", np.int8)
        np.savez(folder / "model.npz", **found)

    return make


def arrays(edit):
    def make(folder):
        found = read_npz(folder / "model.npz")
        edit(found)
        np.savez(folder / "model.npz", **found)

    return make


def checkpoint(edit):
    def make(folder):
        file = TorchFile(folder / "model.pt")
        tree = {**file.tree, "model": file.arrays(file.tree["model"])}
        edit(tree)
        write_torch(tree, folder / "model.pt")

    return make


def model_options(**changes):
    return checkpoint(lambda tree: tree["cfg"]["model"].update(changes))


def compress(folder):
    found = read_npz(folder / "model.npz")
    np.savez_compressed(folder / "model.npz", **found)


def lie_about_a_shape(folder):
    """A header of .npy that asks for a terabyte."""
    with zipfile.ZipFile(folder / "model.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (262144, 1048576), }"
        header += b" " * (117 - len(header)) + b"\n"
        data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
        archive.writestr("Wemb.npy", data)


INT8 = np.ones((3, 4), np.int8)
BAD = {
    "ctranslate2": {
        "another version": (content("model.bin", struct.pack("<I", 5)), "has binary version 5"),
        "another model": (
            content("model.bin", struct.pack("<IH", 6, 8) + b"Whisper\0" + bytes(8)),
            "is a 'Whisper' of revision 0, and only TransformerSpec",
        ),
        "cut off": (
            lambda folder: (folder / "model.bin").write_bytes(
                (folder / "model.bin").read_bytes()[:900]
            ),
            "ends too early",
        ),
        "a scalar more": (
            variables(decoder__final_logit_softcapping=np.float32(30)),
            "has 'decoder/final_logit_softcapping', which no field of our models says",
        ),
        "no end of the source": (
            lambda folder: [
                settings("config.json", add_source_eos=False)(folder),
                variables(decoder__start_from_zero_embedding=np.int8(0))(folder),
            ],
            "add_source_eos is False, and only True",
        ),
        "infinite heads": (
            variables(encoder__num_heads=np.float32("inf"), decoder__num_heads=np.float32("inf")),
            "num_heads is inf",
        ),
        "alibi": (variables(decoder__alibi=np.int8(1)), "a model with alibi cannot be imported"),
        "another activation": (
            variables(encoder__activation=np.int8(4), decoder__activation=np.int8(4)),
            "activation 4 cannot be imported, only those of numbers 0 (relu)",
        ),
        "two activations": (variables(decoder__activation=np.int8(2)), "activation of encoder and"),
        "a norm of embeddings": (
            variables(encoder__layernorm_embedding__gamma=np.ones(16, np.float32)),
            "arrays that no parameter of this model holds, e.g. 'encoder/layernorm_embedding",
        ),
        "no scale": (
            variables(encoder__layer_0__ffn__linear_0__weight=np.ones((24, 16), np.int8)),
            "is of dtype int8 and has no scale",
        ),
        "projections": (
            variables(encoder__layer_0__self_attention__linear_0__weight=np.ones((47, 16), "f4")),
            "has 47 rows, not 3 times as many",
        ),
        "positions": (
            variables(encoder__position_encodings__encodings=np.ones((9, 16), np.float32)),
            "have not one table of positions for both",
        ),
        "a start at BOS": (settings("config.json", add_source_bos=True), "add_source_bos is True"),
        "epsilon": (settings("config.json", layer_norm_epsilon=2), "must be in (0, 1), not 2"),
        "no end": (settings("config.json", eos_token="nothing"), "eos_token is in no list"),
        "too few tokens": (
            content("shared_vocabulary.json", b'["<pad>", "</s>", "<unk>", "<s>"]'),
            "has 4 tokens and a table of 330 rows",
        ),
        "no list": (content("shared_vocabulary.json", b"{}"), "it is no list of tokens"),
        "three models": (content("third.spm", b"x"), None),
        "two models": (
            lambda folder: (folder / "source.spm").rename(folder / "other.spm"),
            "has 2 SentencePiece models: call them source.spm and target.spm",
        ),
    },
    "marian": {
        "SSRU": (options(transformer_decoder_autoreg="rnn"), "decoder-autoreg is 'rnn', and only"),
        "another type": (options(type="s2s"), "type is 's2s', and only 'transformer'"),
        "gelu": (options(transformer_ffn_activation="gelu"), "only 'relu' or 'swish' can be"),
        "norms": (options(transformer_postprocess="da"), "only '', 'dan', '' or 'n', 'da', 'n'"),
        "width": (options(dim_emb=32), "dim-emb is 32, but encoder_Wemb has the shape (330, 16)"),
        "depth": (options(enc_depth=10**9), "enc-depth must be a whole number from 1 to"),
        "heads": (options(transformer_heads=3), "d_model 16 is not divisible by num_heads 3"),
        "learned positions": (
            options(transformer_train_position_embeddings=True), "position-embeddings is True"
        ),
        "from right to left": (options(right_left=True), "right-left is True, and only False"),
        "a list": (options(transformer_preprocess=["n"]), "only '', 'dan', '' or 'n', 'da', 'n'"),
        "a deep option": (
            options(type=[[[[[["transformer"]]]]]]), "type is '(neither a number nor a short text)'"
        ),
        "YAML of another type": (
            arrays(
                lambda a: a.update({"special:model.yml": np.frombuffer(b"a: !!bool x", np.int8)})
            ),
            "special:model.yml is damaged: it is no YAML",
        ),
        "a character that is none": (
            content("vocab.yml", b'"\\UFFFFFFFF": 0\n'), "vocab.yml, line 1"
        ),
        "factors": (options(lemma_dim_emb=8), "lemma-dim-emb is 8, and only 0"),
        "no options": (arrays(lambda a: a.pop("special:model.yml")), "it has no special:model.yml"),
        "no YAML": (
            arrays(lambda a: a.update({"special:model.yml": np.frombuffer(b"a: [", np.int8)})),
            "special:model.yml is damaged: it is no YAML",
        ),
        "an array less": (arrays(lambda a: a.pop("encoder_l1_self_Wq")), "'encoder_l1_self_Wq'"),
        "compressed": (compress, "is compressed, as Marian leaves none"),
        "a lying header": (lie_about_a_shape, "(262144, 1048576) of float32 are not its"),
        "objects": (
            arrays(lambda a: a.update(x=np.array([print], dtype=object))), "is damaged"
        ),
        "no vocabulary": (
            lambda folder: [
                (folder / name).unlink()
                for name in ("vocab.yml", "decoder.yml", "source.spm", "target.spm")
            ],
            "has 0 vocabularies of the model: put *vocab*.yml or an .spm file",
        ),
        "factors of words": (
            content("decoder.yml", b"vocabs: [vocab.fsv, vocab.fsv]"),
            "vocab.fsv is a factored vocabulary, which is not read",
        ),
        "a text": (
            content("decoder.yml", b"vocabs: [vocab.txt]"), "vocab.txt is neither .yml nor .spm"
        ),
        "no SentencePiece model": (
            lambda folder: [
                content("decoder.yml", b"vocabs: [source.spm, target.spm]")(folder),
                content("source.spm", b"x")(folder),
            ],
            "source.spm: not a SentencePiece model",
        ),
        "a line": (content("vocab.yml", b"</s>: 0\nno number\n"), "vocab.yml, line 2: 'no number'"),
        "a gap": (content("vocab.yml", b"</s>: 0\n<unk>: 2\n"), "ids are not those from 0 to 1"),
        "twice": (content("vocab.yml", b"</s>: 0\n<unk>: 0\n"), "line 2: '<unk>: 0' is not a"),
        "no unknown": (content("vocab.yml", b"</s>: 0\n"), "vocab.yml has no <unk>"),
        "another file": (content("model.npz", b"x"), "model.npz is damaged"),
    },
    "marian_bin": {
        "encrypted": (content("model.bin", struct.pack("<Q", 2)), "it is encrypted"),
        "packed": (
            content(
                "model.bin",
                struct.pack("<QQ4Q", 1, 1, 2, 0x4401, 1, 4) + b"a\0" + struct.pack("<iQ", 1, 0)
                + bytes(4),
            ),
            "is of type 0x4401, which is packed or quantised",
        ),
        "a huge count": (content("model.bin", struct.pack("<QQ", 1, 2**60)), "ends too early"),
        "a huge rank": (
            content("model.bin", struct.pack("<QQ4Q", 1, 1, 2, 0x404, 2**60, 4) + b"a\0"),
            "ends too early",
        ),
    },
    "fairseq": {
        "learned positions": (
            model_options(encoder_learned_pos=True), "encoder_learned_pos is True: such a model"
        ),
        "two norms": (
            model_options(decoder_normalize_before=True), "normalize_before of encoder and decoder"
        ),
        "activation": (model_options(activation_fn="tanh"), "activation_fn is 'tanh', and only"),
        "depth": (model_options(encoder_layers=10**9), "layers must be a whole number from 1 to"),
        "no heads": (
            model_options(encoder_attention_heads=None, decoder_attention_heads=None),
            "attention_heads must be a whole number",
        ),
        "a deep option": (
            model_options(activation_fn=[["relu"]]), "activation_fn is '(neither a number nor a"
        ),
        "a huge number": (model_options(encoder_layers=2**70), "layers must be a whole number"),
        "no model": (checkpoint(lambda tree: tree.pop("model")), "is no checkpoint of fairseq"),
        "another array": (
            checkpoint(lambda tree: tree["model"].update(x=np.ones(1, np.float32))), "e.g. 'x'"
        ),
        "no dictionary": (
            lambda folder: (folder / "dict.txt").unlink(), "has neither dict.en.txt and dict.de.txt"
        ),
        "a line": (content("dict.txt", b"a 1\nb\n"), "dict.txt, line 2: 'b' is not a token and"),
        "too few tokens": (content("dict.txt", b"a 1\nb 1\n"), "not 6 rows, which is the size of"),
        "another file": (content("model.pt", b"x"), "is no file of torch.save"),
    },
}  # fmt: skip
CASES = [(kind, name) for kind, several in BAD.items() for name in several]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_bad_model_is_refused_in_one_line(kind, name, tmp_path, monkeypatch, capsys):
    make, message = BAD[kind][name]
    (tmp_path / "foreign").mkdir()
    path = MAKERS[kind](tmp_path / "foreign")
    make(tmp_path / "foreign")
    monkeypatch.chdir(tmp_path)
    words = ["import", str(path.relative_to(tmp_path)), "--run-dir", "run"]
    if message is None:  # of three the two that are called so are taken
        main(words)
        return
    with pytest.raises(SystemExit) as stopped:
        main(words)
    error = str(stopped.value.code)
    assert message in error and "\n" not in error and not capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_export_command_writes_a_folder_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    MAKERS["huggingface"](tmp_path / "foreign")
    main(["import", "foreign", "--run-dir", "run"])
    main(["export", "ct2", "--run-dir", "run", "--format", "ctranslate2", "--dtype", "int8"])
    names = {path.name for path in (tmp_path / "ct2").iterdir()}
    assert names == {
        "model.bin", "config.json", "shared_vocabulary.json", "source.spm", "target.spm",
        "export.json",
    }  # fmt: skip
    main(["export", "hf", "--run-dir", "run", "--format", "huggingface"])
    shown = capsys.readouterr().out
    assert "ct2: exported from run as ctranslate2" in shown
    # Its epsilon is 1e-6 here, which is 1e-5 there.
    record = json.loads((tmp_path / "hf" / "export.json").read_text())
    difference = record.pop("largest_difference_of_log_probabilities")
    assert f"random sentences differ by at most {difference:.1e}" in shown and difference > 0
    assert record == {
        "version": __version__, "checkpoint": "step 0", "norm_epsilon": 1e-6,
        "exported_norm_epsilon": 1e-5,
    }  # fmt: skip
    record = json.loads((tmp_path / "ct2" / "export.json").read_text())
    assert record["exported_norm_epsilon"] is None
    for words, message in (
        ("ct2 --run-dir run --format ctranslate2", "ct2 exists and is not empty: choose another"),
        ("new --run-dir none --format ctranslate2", "none is not a run folder"),
        ("new --run-dir run --format marian", "position_encoding 'concatenated' cannot be"),
        ("new --run-dir run --format huggingface --dtype int8", "dtype 'int8' is not one of"),
        ("new --run-dir run --format huggingface --checkpoint 7", "has no checkpoint '7'"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["export", *words.split()])
    assert not (tmp_path / "new").exists()
    (tmp_path / "run").rename(tmp_path / "new.partial")
    with pytest.raises(SystemExit, match="is where new is built before it is whole"):
        main(["export", "new", "--run-dir", "new.partial", "--format", "ctranslate2"])
    assert (tmp_path / "new.partial" / "config.json").is_file()
