"""Hugging Face's folders of Marian models, such as OPUS-MT's.

Names are those of `MarianMTModel` (transformers 5). Positions are "concatenated", the epsilon of
norms is 1e-5, and the decoder starts with the row of padding. Text is cut as `MarianTokenizer` of
that version does it, which does not normalise punctuation; but the names of special tokens, such as
</s>, are text here.
"""

from pathlib import Path

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.config.languages import is_direction, languages_of
from transformer_jax.data.pieces import PieceVocabulary
from transformer_jax.data.vocabulary import Vocabularies
from transformer_jax.data.vocabulary_protocol import SPECIAL, VocabularyError
from transformer_jax.errors import UserError
from transformer_jax.weights.correspondence import Pair, ids_in_our_order, params_from_arrays
from transformer_jax.weights.foreign import ForeignModel, Settings

__all__ = ["pairs_of", "read_huggingface"]

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
_ACTIVATIONS = {"relu": "relu", "swish": "swish", "silu": "swish", "gelu": "gelu"}
# Logit of the row that starts a target, which is a second row of padding: never predicted.
_NEVER = -1e9


def read_huggingface(folder: Path) -> ForeignModel:
    """Read config.json, model.safetensors, the SentencePiece models and vocab.json.

    Args:
        folder: As `save_pretrained` of `MarianMTModel` and `MarianTokenizer` writes it.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    settings = Settings(folder / "config.json")
    config = _configuration(settings)
    size = settings.integer("vocab_size")
    numbers = _read_numbers(folder / "vocab.json", size)
    ids = ids_in_our_order(
        size,
        {
            "pad": settings.integer("pad_token_id", size - 1),
            "eos": settings.integer("eos_token_id", size - 1),
            "unk": numbers["<unk>"],
            "bos": settings.integer("decoder_start_token_id", size - 1),
        },
    )
    path = folder / "model.safetensors"
    params = params_from_arrays(pairs_of(config), _read_arrays(path, size), ids, str(path))
    if ids[3] in ids[:3]:
        params["output_bias"][3] = _NEVER
    return ForeignModel(
        config,
        params,
        _vocabularies(folder, numbers, ids),
        ids,
        path,
        settings.integer("max_position_embeddings"),
        _languages(folder / "tokenizer_config.json"),
    )


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


def _configuration(settings: Settings) -> ModelConfig:
    """Make the configuration of a model; UserError for what ours cannot be."""
    settings.check("model_type", "marian")
    settings.check("scale_embedding", True)
    settings.check("share_encoder_decoder_embeddings", True, None)
    settings.check("tie_word_embeddings", True, None)
    settings.check("static_position_embeddings", True, None)
    settings.check("normalize_before", False, None)
    settings.check("normalize_embedding", False, None)
    settings.check("decoder_attention_heads", settings.integer("encoder_attention_heads"))
    settings.check("decoder_ffn_dim", settings.integer("encoder_ffn_dim"))
    settings.check("activation_function", *_ACTIVATIONS)
    dropout = settings.values.get("dropout", 0.1)
    return ModelConfig(
        vocab_size=settings.integer("vocab_size") + 1,  # padding has a second row, which starts
        d_model=settings.integer("d_model"),
        d_ff=settings.integer("encoder_ffn_dim"),
        num_heads=settings.integer("encoder_attention_heads"),
        num_layers=settings.integer("encoder_layers"),
        decoder_layers=settings.integer("decoder_layers"),
        dropout=float(dropout) if isinstance(dropout, int | float) else 0.1,
        activation=_ACTIVATIONS[settings.values["activation_function"]],  # type: ignore[arg-type]
        norm_epsilon=1e-5,
        position_encoding="concatenated",
        output_bias=True,
        start_id=3,
    )


def _read_arrays(path: Path, size: int) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    # Tied copies, and tables of positions, which follow from the configuration.
    for name in (
        "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight",
        "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight",
    ):  # fmt: skip
        arrays.pop(name, None)
    bias = arrays.get("final_logits_bias", np.zeros(size, np.float32))
    return {**arrays, "final_logits_bias": bias.reshape(-1)}


def _read_numbers(path: Path, size: int) -> dict[str, int]:
    """Read vocab.json: the id of each spelling, each below `size`, no two alike."""
    settings = Settings(path)
    for spelling in settings.values:
        settings.integer(spelling, size - 1)
    numbers = settings.values
    if len(set(numbers.values())) != len(numbers):
        raise UserError(f"{path} gives two tokens the same id")
    if "<unk>" not in numbers:
        raise UserError(f"{path} has no '<unk>'")
    return numbers


def _vocabularies(folder: Path, numbers: dict[str, int], ids: list[int]) -> Vocabularies:
    spellings = {number: spelling for spelling, number in numbers.items()}
    types = [spellings.get(number, f"<row {number}>") for number in ids[len(SPECIAL) :]]
    found = []
    for name in ("source.spm", "target.spm"):
        path = folder / name
        try:
            found.append(PieceVocabulary(path.read_bytes(), types))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except VocabularyError as error:
            raise UserError(f"{path}: {error}") from None
    return Vocabularies(*found)


def _languages(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None
    values = Settings(path).values
    direction = f"{values.get('source_lang')}-{values.get('target_lang')}"
    return languages_of(direction) if is_direction(direction) else None
