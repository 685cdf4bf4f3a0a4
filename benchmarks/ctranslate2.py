"""A trained run as a folder of CTranslate2 (TransformerSpec), for benchmarks of decoding."""

import json
import math
import struct
from pathlib import Path
from typing import get_args

import numpy as np

from transformer_jax import ModelConfig, Translator
from transformer_jax.errors import UserError
from transformer_jax.functional import sinusoids
from transformer_jax.functional.positions import SinusoidLayout

__all__ = ["write_folder"]

_BINARY_VERSION, _REVISION = 6, 7
_TYPES = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.int16): 2}
POSITIONS = 4096


def write_folder(translator: Translator, folder: Path) -> None:
    """Write model.bin, config.json and shared_vocabulary.json.

    Args:
        translator: A run of the paper's architecture: scaled dot products, one vocabulary, one
            table, layer norm.
        folder: A folder that exists.

    Raises:
        UserError: The run has another architecture.
    """
    config = translator.model.config
    for name, value in (
        ("architecture", "transformer"), ("attention_score", "scaled"), ("start_id", 0),
        ("tied_embeddings", "all"), ("normalization", "layer"), ("target_vocab_size", None),
        ("residual_connections", True), ("scale_embeddings", True), ("attention_radius", None),
    ):  # fmt: skip
        if getattr(config, name) != value:
            raise UserError(f"{name} {getattr(config, name)!r} is not measured here, only {value}")
    if config.position_encoding not in get_args(SinusoidLayout):
        raise UserError(
            f"position_encoding {config.position_encoding!r} is not measured here, only sinusoids"
        )
    variables = _variables(translator.params, config)
    with (folder / "model.bin").open("wb") as file:
        file.write(struct.pack("<I", _BINARY_VERSION) + _string("TransformerSpec"))
        file.write(struct.pack("<II", _REVISION, len(variables)))
        for name, value in sorted(variables.items()):
            array = np.asarray(value)
            file.write(_string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape))
            file.write(struct.pack("<BI", _TYPES[array.dtype], array.nbytes))
            file.write(np.ascontiguousarray(array).tobytes())
        file.write(struct.pack("<I", 0))
    vocabulary = translator.vocabulary
    (folder / "shared_vocabulary.json").write_text(
        json.dumps(vocabulary.tokens(range(len(vocabulary)))), encoding="utf-8"
    )
    pad, eos, unk, bos = vocabulary.tokens(range(4))
    tokens = {
        "unk_token": unk, "bos_token": bos, "eos_token": eos, "decoder_start_token": pad,
        "add_source_bos": False, "add_source_eos": True,
        "layer_norm_epsilon": config.norm_epsilon, "multi_query_attention": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(tokens), encoding="utf-8")


def _string(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def _variables(params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Name -> array, in CTranslate2's names; matrices are [out, in] there."""
    found: dict[str, np.ndarray] = {}

    def put(name: str, value, dtype: type = np.float32) -> None:
        found[name] = np.asarray(value, dtype)

    def linear(name: str, *parts) -> None:
        put(f"{name}/weight", np.concatenate([np.asarray(p["kernel"]).T for p in parts]))
        put(f"{name}/bias", np.concatenate([np.asarray(p["bias"]) for p in parts]))

    def norm(name: str, part) -> None:
        put(f"{name}/layer_norm/gamma", part["gain"])
        put(f"{name}/layer_norm/beta", part["bias"])

    def feed_forward(name: str, layer) -> None:
        part = layer["feed_forward"]
        norm(name, layer["feed_forward_norm"])
        for i, end in enumerate(("in", "out")):
            put(f"{name}/linear_{i}/weight", np.asarray(part[f"kernel_{end}"]).T)
            put(f"{name}/linear_{i}/bias", part[f"bias_{end}"])

    def self_attention(name: str, layer) -> None:
        part = layer["self_attention"]
        norm(name, layer["self_attention_norm"])
        linear(f"{name}/linear_0", part["query"], part["key"], part["value"])
        linear(f"{name}/linear_1", part["output"])

    table = np.asarray(params["embedding"], np.float32)
    for stack, embedding in (("encoder", "embeddings_0"), ("decoder", "embeddings")):
        put(f"{stack}/num_heads", config.num_heads, np.int16)
        for flag in ("activation", "embeddings_merge", "multi_query_attention"):
            put(f"{stack}/{flag}", 0, np.int8)
        put(f"{stack}/pre_norm", config.norm_placement == "pre", np.int8)
        put(f"{stack}/scale_embeddings", math.sqrt(config.d_model))
        put(f"{stack}/{embedding}/weight", table)
        positions = sinusoids(POSITIONS, config.d_model, config.position_encoding)
        put(f"{stack}/position_encodings/encodings", positions)
        if config.norm_placement == "pre":
            norm(stack, params[f"{stack}_norm"])
        for i in range(config.num_layers):
            layer, name = params[f"{stack}_{i}"], f"{stack}/layer_{i}"
            self_attention(f"{name}/self_attention", layer)
            feed_forward(f"{name}/ffn", layer)
            if stack == "decoder":
                part = layer["cross_attention"]
                norm(f"{name}/attention", layer["cross_attention_norm"])
                linear(f"{name}/attention/linear_0", part["query"])
                linear(f"{name}/attention/linear_1", part["key"], part["value"])
                linear(f"{name}/attention/linear_2", part["output"])
    put("decoder/start_from_zero_embedding", True, np.int8)
    put("decoder/alignment_layer", -1, np.int16)
    put("decoder/alignment_heads", 1, np.int16)
    for flag in ("alibi", "alibi_use_positive_positions", "scale_alibi"):
        put(f"decoder/{flag}", False, np.int8)
    put("decoder/projection/weight", table)
    put("decoder/projection/bias", np.zeros(len(table)))
    return found
