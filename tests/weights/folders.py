"""Small models of every format that is imported, each written without its toolkit."""

import struct
from pathlib import Path

import numpy as np

from tests.weights.models import make_translator
from tests.weights.torch_writer import write_torch
from transformer_jax.weights.correspondence import arrays_from_params, pairs_of
from transformer_jax.weights.ctranslate2 import write_ctranslate2
from transformer_jax.weights.fairseq import NAMES
from transformer_jax.weights.huggingface import write_huggingface
from transformer_jax.weights.marian import MODEL, write_marian
from transformer_jax.weights.marian_files import read_npz

__all__ = ["MAKERS"]


def huggingface(folder: Path) -> Path:
    write_huggingface(make_translator(position_encoding="concatenated"), folder)
    return folder


def pytorch(folder: Path) -> Path:
    from safetensors.numpy import load_file

    huggingface(folder)
    weights = folder / "model.safetensors"
    write_torch(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def ctranslate2(folder: Path) -> Path:
    write_ctranslate2(make_translator(), folder)
    return folder


def ctranslate2_int8(folder: Path) -> Path:
    write_ctranslate2(make_translator(tied_embeddings="none"), folder, "int8")
    return folder


def marian(folder: Path) -> Path:
    write_marian(make_translator(position_encoding="t2t"), folder)
    return folder / MODEL


def marian_bin(folder: Path) -> Path:
    arrays = read_npz(marian(folder))
    (folder / MODEL).unlink()
    types = {"float32": 0x404, "int8": 0x101}
    padded = {name: -array.nbytes % 256 for name, array in arrays.items()}
    names = [name.encode() + b"\0" for name in arrays]
    data = struct.pack("<QQ", 1, len(arrays))
    for (name, array), written in zip(arrays.items(), names):
        size = array.nbytes + padded[name]
        data += struct.pack("<4Q", len(written), types[array.dtype.name], array.ndim, size)
    data += b"".join(names)
    for array in arrays.values():
        data += struct.pack(f"<{array.ndim}i", *array.shape)
    gap = -(len(data) + 8) % 256
    data += struct.pack("<Q", gap) + bytes(gap)
    for name, array in arrays.items():
        data += array.tobytes() + bytes(padded[name])
    path = folder / "model.bin"
    path.write_bytes(data)
    return path


def fairseq(folder: Path, is_zip: bool = True) -> Path:
    translator = make_translator(
        position_encoding="t2t", first_position=2, start_id=1, norm_epsilon=1e-5
    )
    tokens = translator.vocabulary.tokens(range(4, len(translator.vocabulary)))
    (folder / "dict.txt").write_text("".join(f"{token} 1\n" for token in tokens))
    (folder / "sentencepiece.bpe.model").write_bytes(translator.vocabulary.pieces or b"")
    arrays = arrays_from_params(pairs_of(translator.model.config, NAMES), translator.params)
    # Theirs are start, padding, end, unknown.
    for name in NAMES.tables.values():
        if name in arrays:
            arrays[name] = arrays[name][[3, 0, 1, 2, *range(4, len(arrays[name]))]]
    arrays["encoder.version"] = np.array([3.0], np.float32)
    options = {
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_normalize_before": False,
        "decoder_normalize_before": False, "source_lang": "en", "target_lang": "de",
        "dropout": 0.1, "max_target_positions": 128,
    }  # fmt: skip
    path = folder / "model.pt"
    write_torch({"args": None, "cfg": {"model": options}, "model": arrays}, path, is_zip)
    return path


def fairseq_legacy(folder: Path) -> Path:
    return fairseq(folder, is_zip=False)


MAKERS = {
    each.__name__: each
    for each in (
        huggingface, pytorch, ctranslate2, ctranslate2_int8, marian, marian_bin, fairseq,
        fairseq_legacy,
    )
}  # fmt: skip
