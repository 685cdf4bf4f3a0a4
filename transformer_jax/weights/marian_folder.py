"""Hugging Face's folders of Marian models, such as OPUS-MT's: configuration and weights.

Names are those of `MarianMTModel` (transformers 5). Positions are "concatenated", the epsilon of
norms is 1e-5, and the decoder starts with the row of padding.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.weights.correspondence import Pair, ids_in_our_order, params_from_arrays

__all__ = ["MarianFolder", "pairs_of", "read_marian_folder"]

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


class MarianFolder(NamedTuple):
    """What a folder holds.

    Attributes:
        config: The model.
        params: Its parameters, of our ids.
        ids: The foreign id of each of ours.
    """

    config: ModelConfig
    params: dict[str, Any]
    ids: list[int]


def read_marian_folder(folder: Path) -> MarianFolder:
    """Read config.json and model.safetensors.

    Args:
        folder: As `MarianMTModel.save_pretrained` writes it.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    settings = _read_settings(folder / "config.json")
    config = _configuration(settings, folder / "config.json")
    ids = ids_in_our_order(
        settings["vocab_size"],
        {
            "pad": settings["pad_token_id"],
            "eos": settings["eos_token_id"],
            "unk": 1,
            "bos": settings["decoder_start_token_id"],
        },
    )
    path = folder / "model.safetensors"
    arrays = _read_arrays(path)
    # Tied copies, and the table of positions, which follows from the configuration.
    shared = ("encoder.embed_tokens", "decoder.embed_tokens")
    for name in (f"model.{each}.weight" for each in shared):
        arrays.pop(name, None)
    arrays.pop("lm_head.weight", None)
    for side in ("encoder", "decoder"):
        arrays.pop(f"model.{side}.embed_positions.weight", None)
    bias = arrays.get("final_logits_bias")
    if bias is None:
        arrays["final_logits_bias"] = np.zeros(settings["vocab_size"], np.float32)
    else:
        arrays["final_logits_bias"] = bias.reshape(-1)
    return MarianFolder(config, params_from_arrays(pairs_of(config), arrays, ids, str(path)), ids)


def pairs_of(config: ModelConfig) -> list[Pair]:
    """List the arrays of a Marian model of this configuration."""
    pairs = [
        Pair(("embedding",), "model.shared.weight", is_vocabulary=True),
        Pair(("output_bias",), "final_logits_bias", is_vocabulary=True),
    ]

    def add(ours: tuple[str, ...], theirs: str, kinds: dict[str, str], is_transposed: bool):
        pairs.extend(
            Pair((*ours, mine), f"{theirs}.{name}", is_transposed and name == "weight")
            for mine, name in kinds.items()
        )

    linear, norm = {"kernel": "weight", "bias": "bias"}, {"gain": "weight", "bias": "bias"}
    for side, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth)):
        blocks = {"self_attention": "self_attn"}
        if side == "decoder":
            blocks["cross_attention"] = "encoder_attn"
        for i in range(depth):
            ours, theirs = f"{side}_{i}", f"model.{side}.layers.{i}"
            for block, name in blocks.items():
                for mine, projection in _ATTENTION.items():
                    add((ours, block, mine), f"{theirs}.{name}.{projection}", linear, True)
                add((ours, f"{block}_norm"), f"{theirs}.{name}_layer_norm", norm, False)
            for mine, name in (("in", "fc1"), ("out", "fc2")):
                kinds = {f"kernel_{mine}": "weight", f"bias_{mine}": "bias"}
                add((ours, "feed_forward"), f"{theirs}.{name}", kinds, True)
            add((ours, "feed_forward_norm"), f"{theirs}.final_layer_norm", norm, False)
    return pairs


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a folder of a Marian model") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(settings, dict) or settings.get("model_type") != "marian":
        kind = settings.get("model_type") if isinstance(settings, dict) else None
        raise UserError(f"{path}: model_type {kind!r} is not marian")
    return settings


def _configuration(settings: dict[str, Any], path: Path) -> ModelConfig:
    """The model of a config.json; UserError for what ours cannot be."""
    required = {
        "scale_embedding": (True,),
        "share_encoder_decoder_embeddings": (True, None),
        "tie_word_embeddings": (True, None),
        "static_position_embeddings": (True, None),
        "normalize_before": (False, None),
        "normalize_embedding": (False, None),
        "encoder_attention_heads": (settings.get("decoder_attention_heads"),),
        "encoder_ffn_dim": (settings.get("decoder_ffn_dim"),),
        "activation_function": ("relu", "swish", "silu", "gelu"),
    }
    for name, allowed in required.items():
        if settings.get(name) not in allowed:
            raise UserError(f"{path}: {name} {settings.get(name)!r} is not supported yet")
    activation = settings["activation_function"]
    try:
        return ModelConfig(
            vocab_size=settings["vocab_size"] + 1,  # padding has a second row, which starts
            d_model=settings["d_model"],
            d_ff=settings["encoder_ffn_dim"],
            num_heads=settings["encoder_attention_heads"],
            num_layers=settings["encoder_layers"],
            decoder_layers=settings["decoder_layers"],
            dropout=settings.get("dropout", 0.1),
            activation="swish" if activation == "silu" else activation,
            norm_epsilon=1e-5,
            position_encoding="concatenated",
            output_bias=True,
            start_id=3,
        )
    except KeyError as error:
        raise UserError(f"{path} has no {error}") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
