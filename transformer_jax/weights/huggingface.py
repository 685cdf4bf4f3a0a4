"""Hugging Face's folders of Marian models, such as OPUS-MT's.

Names are those of `MarianMTModel` (transformers 5). Positions are "concatenated", the epsilon of
norms is 1e-5, and the decoder starts with the row of padding. Text is cut as `MarianTokenizer` of
that version does it, which does not normalise punctuation; but the names of special tokens, such as
</s>, are text here, and target.spm writes the text.
"""

from pathlib import Path

import numpy as np

from transformer_jax.config import ConfigError, ModelConfig
from transformer_jax.config.languages import is_direction, languages_of
from transformer_jax.data.pieces import PieceVocabulary
from transformer_jax.data.vocabulary import Vocabularies
from transformer_jax.data.vocabulary_protocol import SPECIAL, VocabularyError
from transformer_jax.errors import UserError, is_encodable
from transformer_jax.weights.correspondence import Pair, ids_in_our_order, params_from_arrays
from transformer_jax.weights.foreign import ForeignModel, Settings

__all__ = ["pairs_of", "read_huggingface"]

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
_ACTIVATIONS = {"relu": "relu", "swish": "swish", "silu": "swish", "gelu": "gelu"}
# Logit of a row that starts a target and is another one's copy: no search takes it, so it has no
# part in the sum of probabilities either.
_NEVER = -1e9


def read_huggingface(folder: Path) -> ForeignModel:
    """Read config.json, model.safetensors, the SentencePiece models and vocab.json.

    Args:
        folder: As `save_pretrained` of `MarianMTModel` and `MarianTokenizer` writes it.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    settings = Settings(folder / "config.json")
    settings.check("model_type", "marian")
    path = folder / "model.safetensors"
    arrays = _read_arrays(path)
    _check_sizes(settings, arrays, path)
    arrays = _without_copies(arrays, path)
    size = settings.values["vocab_size"]
    numbers = _read_numbers(folder / "vocab.json", size)
    special = {
        "pad": settings.integer("pad_token_id", size - 1),
        "eos": settings.integer("eos_token_id", size - 1),
        "unk": numbers["<unk>"],
        "bos": settings.integer("decoder_start_token_id", size - 1),
    }
    for name, spelling in (("pad", "<pad>"), ("eos", "</s>")):
        if numbers.get(spelling, special[name]) != special[name]:
            raise UserError(
                f"{settings.path}: {name}_token_id is {special[name]}, but {folder / 'vocab.json'} "
                f"gives {spelling!r} the id {numbers[spelling]}: the files do not belong together"
            )
    ids = ids_in_our_order(size, special)
    config = _configuration(settings, len(ids))
    params = params_from_arrays(pairs_of(config), arrays, ids, str(path))
    if ids[3] in ids[:3]:
        params["output_bias"][3] = _NEVER
    return ForeignModel(
        config,
        params,
        _vocabularies(folder, numbers, ids),
        ids,
        path,
        settings.integer("max_position_embeddings", 2**31 - 1, least=2),
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


def _check_sizes(settings: Settings, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Compare the sizes of a configuration with the arrays, before memory is taken for them."""
    table = arrays.get("model.shared.weight")
    if table is None or table.ndim != 2:
        raise UserError(f"{path} has no array 'model.shared.weight' of two axes")
    for name, rows in zip(("vocab_size", "d_model"), table.shape):
        settings.check(name, rows)
    inner = arrays.get("model.encoder.layers.0.fc1.weight")
    if inner is None or inner.ndim != 2:
        raise UserError(f"{path} has no array 'model.encoder.layers.0.fc1.weight' of two axes")
    settings.check("encoder_ffn_dim", len(inner))
    for side in ("encoder", "decoder"):
        settings.integer(f"{side}_layers", len(arrays), least=1)


def _without_copies(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Leave out what follows from the rest, and add a bias of zeros where there is none."""
    table = arrays["model.shared.weight"]
    left = dict(arrays)
    for name in ("lm_head", "model.encoder.embed_tokens", "model.decoder.embed_tokens"):
        copy = left.pop(f"{name}.weight", table)
        if not np.array_equal(copy, table):
            raise UserError(f"{path}: {name}.weight is not model.shared.weight: not tied")
    # Tables of positions follow from the configuration.
    for side in ("encoder", "decoder"):
        left.pop(f"model.{side}.embed_positions.weight", None)
    bias = left.get("final_logits_bias", np.zeros(len(table), np.float32))
    return {**left, "final_logits_bias": bias.reshape(-1)}


def _configuration(settings: Settings, rows: int) -> ModelConfig:
    """Make the configuration of a model; UserError for what ours cannot be."""
    size = settings.values["vocab_size"]
    settings.check("scale_embedding", True)
    settings.check("share_encoder_decoder_embeddings", True, None)
    settings.check("tie_word_embeddings", True, None)
    settings.check("static_position_embeddings", True, None)
    settings.check("normalize_before", False, None)
    settings.check("normalize_embedding", False, None)
    settings.check("decoder_vocab_size", size, None)
    settings.check("activation_function", *_ACTIVATIONS)
    d_model, d_ff = settings.values["d_model"], settings.values["encoder_ffn_dim"]
    heads = settings.integer("encoder_attention_heads", d_model, least=1)
    settings.check("decoder_attention_heads", heads)
    settings.check("decoder_ffn_dim", d_ff)
    try:
        return ModelConfig(
            vocab_size=rows,
            d_model=d_model,
            d_ff=d_ff,
            num_heads=heads,
            num_layers=settings.values["encoder_layers"],
            decoder_layers=settings.values["decoder_layers"],
            dropout=settings.share("dropout", 0.1),
            attention_dropout=settings.share("attention_dropout", 0.0),
            activation_dropout=settings.share("activation_dropout", 0.0),
            activation=_ACTIVATIONS[settings.values["activation_function"]],  # type: ignore[arg-type]
            norm_epsilon=1e-5,
            position_encoding="concatenated",
            output_bias=True,
            start_id=3,
        )
    except ConfigError as error:
        raise UserError(f"{settings.path}: {error}") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged, or of dtypes that are not read: {error}") from None


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
    if not is_encodable("".join(numbers)):
        raise UserError(f"{path} is damaged: it has an unpaired surrogate")
    return numbers


def _vocabularies(folder: Path, numbers: dict[str, int], ids: list[int]) -> Vocabularies:
    spellings = {number: spelling for spelling, number in numbers.items()}

    def spell(number: int) -> str:
        """Spell a row that has no name, or that of another special symbol, by its number."""
        spelling = spellings.get(number, SPECIAL[0])
        return f"<row {number}>" if spelling in SPECIAL else spelling

    types = [spell(number) for number in ids[len(SPECIAL) :]]
    if len(set(types)) != len(types):
        raise UserError(f"{folder / 'vocab.json'} spells a token as '<row N>', a name of ours")
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
    settings = Settings(path)
    settings.check("separate_vocabs", False, None)
    values = settings.values
    direction = f"{values.get('source_lang')}-{values.get('target_lang')}"
    return languages_of(direction) if is_direction(direction) else None
