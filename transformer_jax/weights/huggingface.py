"""Hugging Face's folders of Marian models, such as OPUS-MT's.

Names are those of `MarianMTModel` (transformers 5). Positions are "concatenated", and the epsilon
of norms is 1e-5. Text is cut as `MarianTokenizer` of that version does it, which does not normalise
punctuation; but the names of special tokens, such as </s>, are text here, and target.spm writes the
text.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.config.languages import is_direction, languages_of
from transformer_jax.errors import UserError
from transformer_jax.translator import Translator
from transformer_jax.weights.axis_order import concatenate_positions, interleave_positions
from transformer_jax.weights.correspondence import (
    NEVER,
    Ids,
    Names,
    arrays_from_params,
    check_expressible,
    matrix_of,
    pairs_of,
)
from transformer_jax.weights.foreign import ForeignModel, Settings, assemble, choose_start
from transformer_jax.weights.numbering import make_vocabularies, number_tokens, write_pieces
from transformer_jax.weights.torch_files import TorchFile
from transformer_jax.weights.torch_names import torch_names

__all__ = ["EPSILON", "names_of", "read_huggingface", "write_huggingface"]

# A row beyond the vocabulary, of zeros, that targets start with in folders of ours. As in those of
# OPUS-MT it is padding's where both sides have one list, which CTranslate2's converter counts on;
# the row that is padding's here has the other name then.
_EXTRA, _PADDING = "<start>", "<row 0>"
# Rows of the table of positions there, which a translation may not be longer than.
_POSITIONS = 1024
# Of every norm there.
EPSILON = 1e-5
# Where config.json says what is ours alone, for the way back.
_OWN = "transformer_jax"
_ACTIVATIONS = {"relu": "relu", "swish": "swish", "silu": "swish", "gelu": "gelu"}


def names_of(shared: bool) -> Names:
    """Name the arrays of a Marian model.

    Args:
        shared: Whether encoder and decoder have one table.
    """
    source = "model.shared.weight" if shared else "model.encoder.embed_tokens.weight"
    tables = {
        "source": source,
        "target": "model.decoder.embed_tokens.weight",
        "output": "lm_head.weight",
    }
    return torch_names("model.", tables, "final_logits_bias")


def read_huggingface(folder: Path) -> ForeignModel:
    """Read config.json, the weights, the SentencePiece models and vocab.json.

    Args:
        folder: As `save_pretrained` of `MarianMTModel` and `MarianTokenizer` writes it.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    settings = Settings.read(folder / "config.json")
    settings.check("model_type", "marian")
    settings.check("share_encoder_decoder_embeddings", True, False, None)
    shared = settings.values.get("share_encoder_decoder_embeddings") is not False
    names = names_of(shared)
    path, arrays = _read_weights(folder, shared)
    fields = _fields(settings, names, arrays, path)
    languages, separate, longest = _read_tokenizer(folder / "tokenizer_config.json")
    if separate == shared:
        raise UserError(
            f"{settings.path} says share_encoder_decoder_embeddings {shared}, but the tokenizer's "
            f"separate_vocabs is {separate}: the files do not belong together"
        )
    size = settings.values["vocab_size"]
    sizes = [size] if shared else [size, settings.values["decoder_vocab_size"]]
    files = [folder / name for name in ("vocab.json", "target_vocab.json")]
    start = settings.integer("decoder_start_token_id", sizes[-1] - 1)
    numbered = [_read_numbers(file, rows) for file, rows in zip(files, sizes)]
    specials = [
        _special(settings, numbers, file, rows)
        for numbers, file, rows in zip(numbered, files, sizes)
    ]
    table = names.tables["source" if shared else "target"]
    start_row: int | None = start
    is_extra = _own(settings).get("has_extra_row") is True and start == sizes[-1] - 1
    if is_extra and not arrays[table][start].any():  # it may have been trained since
        of_target = [*names.tables.values()][0 if shared else 1 :]
        for name in {*of_target, names.output_bias} & set(arrays):
            arrays[name] = arrays[name][:-1]
        numbered[-1] = {token: row for token, row in numbered[-1].items() if row != start}
        sizes[-1], start_row, specials[-1]["pad"] = start, None, 0
    fields["start_id"], specials[-1]["bos"] = choose_start(start_row, specials[-1], arrays[table])
    sides = [
        number_tokens([names_by_row.get(row) for row in range(rows)], special, file)
        for numbers, special, file, rows in zip(numbered, specials, files, sizes)
        for names_by_row in [{number: token for token, number in numbers.items()}]
    ]
    vocabularies = make_vocabularies(sides, (folder / "source.spm", folder / "target.spm"))
    ids = Ids(sides[0].ids, sides[-1].ids)
    longest = min(longest, settings.integer("max_position_embeddings", 2**31 - 1, least=2))
    model = assemble(path, arrays, names, ids, vocabularies, fields, longest, languages)
    if model.config.tied_embeddings == "none" and settings.values.get("tie_word_embeddings", True):
        raise UserError(f"{path}: lm_head.weight is not the decoder's table: not tied")
    return _as_it_was(model, settings)


def _own(settings: Settings) -> Mapping[str, Any]:
    """What a folder of ours says beside what Hugging Face reads; nothing in others."""
    own = settings.values.get(_OWN)
    return own if isinstance(own, dict) else {}


def _as_it_was(model: ForeignModel, settings: Settings) -> ForeignModel:
    """Undo what `write_huggingface` did to a model of ours."""
    if not (own := _own(settings)):
        return model
    epsilon = own.get("norm_epsilon")
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise UserError(f"{settings.path} is damaged: {_OWN} has no norm_epsilon in (0, 1)")
    config, params = replace(model.config, norm_epsilon=epsilon), model.params
    if own.get("position_encoding") == "paper":
        config = replace(config, position_encoding="paper")
        params = interleave_positions(params, config)
    return model._replace(config=config, params=params)


def write_huggingface(translator: Translator, folder: Path) -> None:
    """Write what `MarianMTModel` and `MarianTokenizer` load.

    "paper" positions leave by a permutation of the model's axis. What starts a target is a row of
    its own there, of zeros, where ours starts with zeros.

    Args:
        translator: The model.
        folder: A folder that exists.

    Raises:
        UserError: The model or its vocabulary cannot be expressed there.
    """
    from safetensors.numpy import save_file

    config, vocabularies = translator.model.config, translator.vocabularies
    check_expressible(
        config,
        "Hugging Face's Marian",
        norm_placement=["post"],
        position_encoding=["paper", "concatenated"],
        first_position=[0],
        scale_embeddings=[True],
        tied_embeddings=["all", "decoder"],
    )
    for vocabulary in vocabularies:
        if vocabulary.pieces is None:
            raise UserError(
                "MarianTokenizer cuts text with SentencePiece, and this run's vocabulary is of "
                "tokens that spaces separate: nothing was written"
            )
    shared = config.tied_embeddings == "all"
    params = {"output_bias": np.zeros(config.target_size, np.float32), **translator.params}
    if config.position_encoding == "paper":
        params = concatenate_positions(params, replace(config, output_bias=True))
    names = names_of(shared)
    arrays = arrays_from_params(pairs_of(replace(config, output_bias=True), names), params)
    numbered = [
        {token: row for row, token in enumerate(vocabulary.tokens(range(len(vocabulary))))}
        for vocabulary in (vocabularies if not shared else vocabularies[:1])
    ]
    start, padding = config.start_id, 0
    if start == 0:
        start = len(numbered[-1])
        if shared:
            padding = start
            numbered[0][_PADDING] = numbered[0].pop("<pad>")
        numbered[-1]["<pad>" if shared else _EXTRA] = start
        table = names.tables["source" if shared else "target"]
        arrays[table] = np.concatenate([arrays[table], np.zeros((1, config.d_model), np.float32)])
        arrays[names.output_bias] = np.append(arrays[names.output_bias], np.float32(NEVER))
    arrays[names.output_bias] = arrays[names.output_bias][None]
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    settings = {
        "architectures": ["MarianMTModel"], "model_type": "marian", "is_encoder_decoder": True,
        "vocab_size": len(numbered[0]), "decoder_vocab_size": len(numbered[-1]),
        "d_model": config.d_model, "encoder_layers": config.encoder_depth,
        "decoder_layers": config.decoder_depth, "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff, "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads, "activation_function": config.activation,
        "dropout": config.dropout, "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout, "scale_embedding": True,
        "static_position_embeddings": True, "share_encoder_decoder_embeddings": shared,
        "tie_word_embeddings": True,
        "max_position_embeddings": max(translator.max_length, _POSITIONS),
        "pad_token_id": padding, "eos_token_id": 1, "bos_token_id": 3,
        "decoder_start_token_id": start,
        _OWN: {
            "position_encoding": config.position_encoding, "norm_epsilon": config.norm_epsilon,
            "has_extra_row": config.start_id == 0,
        },
    }  # fmt: skip
    _write_json(folder / "config.json", settings)
    # A search of ours writes neither padding nor the start symbols.
    never = [[row] for row in dict.fromkeys((0, 3, start))]
    generation = {
        "pad_token_id": padding, "eos_token_id": 1, "bos_token_id": 3,
        "decoder_start_token_id": start, "bad_words_ids": never, "num_beams": 4,
        "max_length": translator.max_length + 50,
    }  # fmt: skip
    _write_json(folder / "generation_config.json", generation)
    for name, numbers in zip(("vocab.json", "target_vocab.json"), numbered):
        _write_json(folder / name, numbers)
    write_pieces(vocabularies, folder)
    source, target = translator.languages
    tokenizer = {
        "tokenizer_class": "MarianTokenizer", "source_lang": source, "target_lang": target,
        "separate_vocabs": not shared, "model_max_length": translator.max_length,
        "unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>",
    }  # fmt: skip
    _write_json(folder / "tokenizer_config.json", tokenizer)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_weights(folder: Path, shared: bool) -> tuple[Path, dict[str, np.ndarray]]:
    """Read the arrays, without what follows from the rest."""
    path = folder / "model.safetensors"
    if path.exists() or not (folder / "pytorch_model.bin").exists():
        arrays = read_safetensors(path)
    else:
        path = folder / "pytorch_model.bin"
        file = TorchFile(path)
        arrays = file.arrays(file.tree)
    # Tables of positions follow from the configuration.
    for side in ("encoder", "decoder"):
        arrays.pop(f"model.{side}.embed_positions.weight", None)
    if shared:
        table = arrays.get("model.shared.weight")
        for side in ("encoder", "decoder"):
            copy = arrays.pop(f"model.{side}.embed_tokens.weight", table)
            if copy is not None and table is not None and not np.array_equal(copy, table):
                raise UserError(f"{path}: the {side}'s table is not model.shared.weight: not tied")
    else:
        arrays.pop("model.shared.weight", None)
    if "final_logits_bias" in arrays:
        arrays["final_logits_bias"] = arrays["final_logits_bias"].reshape(-1)
    return path, arrays


def _fields(
    settings: Settings, names: Names, arrays: dict[str, np.ndarray], path: Path
) -> dict[str, Any]:
    """Fields of `ModelConfig`; sizes are compared with the arrays before memory is taken."""
    checked = [(names.tables["source"], ("vocab_size", "d_model"))]
    if names.tables["source"] != "model.shared.weight":
        checked.append((names.tables["target"], ("decoder_vocab_size", "d_model")))
    checked.append(("model.encoder.layers.0.fc1.weight", ("encoder_ffn_dim", "d_model")))
    for name, sizes in checked:
        for size, rows in zip(sizes, matrix_of(arrays, name, path).shape):
            settings.check(size, rows)
    for side in ("encoder", "decoder"):
        settings.integer(f"{side}_layers", len(arrays), least=1)
    settings.check("scale_embedding", True)
    settings.check("static_position_embeddings", True, None)
    settings.check("normalize_before", False, None)
    settings.check("normalize_embedding", False, None)
    if names.tables["source"] == "model.shared.weight":
        settings.check("decoder_vocab_size", settings.values["vocab_size"], None)
    settings.check("activation_function", *_ACTIVATIONS)
    d_model, d_ff = settings.values["d_model"], settings.values["encoder_ffn_dim"]
    heads = settings.integer("encoder_attention_heads", d_model, least=1)
    settings.check("decoder_attention_heads", heads)
    settings.check("decoder_ffn_dim", d_ff)
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_heads": heads,
        "num_layers": settings.values["encoder_layers"],
        "decoder_layers": settings.values["decoder_layers"],
        "dropout": settings.share("dropout", 0.1),
        "attention_dropout": settings.share("attention_dropout", 0.0),
        "activation_dropout": settings.share("activation_dropout", 0.0),
        "activation": _ACTIVATIONS[settings.values["activation_function"]],
        "norm_epsilon": EPSILON,
        "position_encoding": "concatenated",
    }


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file.

    Args:
        path: A file of safetensors.

    Raises:
        UserError: It is missing or damaged.
    """
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
    settings = Settings.read(path)
    for spelling in settings.values:
        settings.integer(spelling, size - 1)
    numbers = settings.values
    if len(set(numbers.values())) != len(numbers):
        raise UserError(f"{path} gives two tokens the same id")
    if "<unk>" not in numbers:
        raise UserError(f"{path} has no '<unk>'")
    return numbers


def _special(
    settings: Settings, numbers: dict[str, int], path: Path, size: int
) -> dict[str, int | None]:
    """Ids of special tokens, which config.json and the list of tokens must agree on."""
    special: dict[str, int | None] = {
        "pad": settings.integer("pad_token_id", size - 1),
        "eos": settings.integer("eos_token_id", size - 1),
        "unk": numbers["<unk>"],
        "bos": numbers.get("<s>"),
    }
    for name, spelling in (("pad", "<pad>"), ("eos", "</s>")):
        if numbers.get(spelling, special[name]) != special[name]:
            raise UserError(
                f"{settings.path}: {name}_token_id is {special[name]}, but {path} "
                f"gives {spelling!r} the id {numbers[spelling]}: the files do not belong together"
            )
    return special


def _read_tokenizer(path: Path) -> tuple[tuple[str, str] | None, bool, int]:
    """Languages, where they are known; whether each side has a list of its own; and most tokens of
    a text, which is a huge number where that is not limited."""
    if not path.is_file():
        return None, False, sys.maxsize
    settings = Settings.read(path)
    settings.check("separate_vocabs", True, False, None)
    values = settings.values
    direction = f"{values.get('source_lang')}-{values.get('target_lang')}"
    languages = languages_of(direction) if is_direction(direction) else None
    longest = values.get("model_max_length")
    if type(longest) is not int or longest < 2:
        longest = sys.maxsize
    return languages, values.get("separate_vocabs") is True, longest
