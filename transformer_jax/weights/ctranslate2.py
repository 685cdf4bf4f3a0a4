"""Folders of CTranslate2 (TransformerSpec): model.bin, config.json and lists of tokens."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.functional.positions import SinusoidLayout, sinusoids
from transformer_jax.translator import Translator
from transformer_jax.weights.correspondence import (
    Ids,
    Names,
    arrays_from_params,
    check_expressible,
    matrix_of,
    pairs_of,
)
from transformer_jax.weights.ctranslate2_files import read_variables, write_variables
from transformer_jax.weights.foreign import ForeignModel, Settings, assemble, choose_start
from transformer_jax.weights.numbering import (
    Numbering,
    find_pieces,
    make_vocabularies,
    number_tokens,
    write_pieces,
)

__all__ = ["DTYPES", "NAMES", "read_ctranslate2", "write_ctranslate2"]

# What weights are written as; the two of 8 and 16 bits with a scale.
DTYPES = ("float32", "float16", "bfloat16", "int16", "int8")
_ACTIVATIONS = {0: "relu", 2: "swish", 3: "gelu"}
# Rows of the table of positions that is written, where it does not end by itself.
_POSITIONS = 4096
# Position of the first token in tables that are known: 2 in fairseq's.
_FIRST_POSITIONS = (0, 1, 2)
_SIDES = ("encoder", "decoder")
# What is no array, and is read, or says which attention is drawn.
_SCALARS = {
    "num_heads", "pre_norm", "activation", "embeddings_merge", "multi_query_attention", "alibi",
    "scale_embeddings", "alibi_use_positive_positions", "scale_alibi", "alignment_layer",
    "alignment_heads", "start_from_zero_embedding",
}  # fmt: skip
# What is one product there: block, number of the product -> projections of ours.
_FUSED = {
    ("self_attention", 0): ("query", "key", "value"),
    ("attention", 0): ("query",),
    ("attention", 1): ("key", "value"),
}
NAMES = Names(
    layer="{side}/layer_{number}/",
    modules={
        **{f"self_attention/{x}": f"self_attention/{x}/{{}}" for x in ("query", "key", "value")},
        **{f"cross_attention/{x}": f"attention/{x}/{{}}" for x in ("query", "key", "value")},
        "self_attention/output": "self_attention/linear_1/{}",
        "cross_attention/output": "attention/linear_2/{}",
        "self_attention_norm": "self_attention/layer_norm/{}",
        "cross_attention_norm": "attention/layer_norm/{}",
        "feed_forward/in": "ffn/linear_0/{}",
        "feed_forward/out": "ffn/linear_1/{}",
        "feed_forward_norm": "ffn/layer_norm/{}",
    },
    top="{side}/layer_norm/{}",
    linear={"kernel": "weight", "bias": "bias"},
    norm={"gain": "gamma", "bias": "beta"},
    tables={
        "source": "encoder/embeddings_0/weight",
        "target": "decoder/embeddings/weight",
        "output": "decoder/projection/weight",
    },
    output_bias="decoder/projection/bias",
    positions="encoder/position_encodings/encodings",
)


def read_ctranslate2(folder: Path) -> ForeignModel:
    """Read a folder; weights of int8 and int16 become the floats that they stand for.

    Args:
        folder: As the converters of CTranslate2 write it, of a Transformer that translates. Where a
            SentencePiece model stands in it, too, it cuts text; otherwise spaces do.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    path = folder / "model.bin"
    settings = Settings.read(folder / "config.json")
    variables = read_variables(path)
    scalars = {name: variables.pop(name) for name in [*variables] if not variables[name].ndim}
    arrays = dict(_split(_unquantized(variables, scalars, path), path))
    fields = _fields(settings, scalars, arrays, path)
    table = matrix_of(arrays, NAMES.tables["target"], path)
    sides, fields["start_id"] = _number(folder, settings, scalars, table)
    vocabularies = make_vocabularies(sides, find_pieces(folder))
    ids = Ids(sides[0].ids, sides[-1].ids)
    longest = max(fields["max_positions"] - fields["first_position"], 2)
    return assemble(path, arrays, NAMES, ids, vocabularies, fields, longest)


def _unquantized(
    variables: dict[str, np.ndarray], scalars: dict[str, np.ndarray], path: Path
) -> dict[str, np.ndarray]:
    """Divide what was rounded by its scale, one for each row or one for all."""
    found: dict[str, np.ndarray] = {}
    made: dict[int, np.ndarray] = {}  # an alias is the same array, which is divided once
    for name, array in variables.items():
        if name.endswith("weight_scale"):
            continue
        if array.dtype not in (np.int8, np.int16) or not name.endswith("/weight"):
            found[name] = array
            continue
        scale = variables.get(f"{name}_scale", scalars.pop(f"{name}_scale", None))
        if scale is None or scale.shape not in ((), array.shape[:1]) or not np.all(scale):
            raise UserError(f"{path}: {name} is of dtype {array.dtype} and has no scale")
        if id(array) not in made:
            rows = scale.reshape(*scale.shape, *[1] * (array.ndim - 1))
            made[id(array)] = array.astype(np.float32) / np.asarray(rows, np.float32)
        found[name] = made[id(array)]
    return found


def _split(arrays: dict[str, np.ndarray], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Take fused projections apart."""
    for name, array in arrays.items():
        match = re.fullmatch(r"(.*/)(self_attention|attention)/linear_(\d)/(weight|bias)", name)
        parts = match and _FUSED.get((match[2], int(match[3])))
        if not match or not parts:
            yield name, array
            continue
        if len(array) % len(parts):
            raise UserError(f"{path}: {name} has {len(array)} rows, not {len(parts)} times as many")
        for part, value in zip(parts, np.split(array, len(parts))):
            yield f"{match[1]}{match[2]}/{part}/{match[4]}", value


def _fields(
    settings: Settings, scalars: dict[str, np.ndarray], arrays: dict[str, np.ndarray], path: Path
) -> dict[str, Any]:
    """Fields of `ModelConfig`; positions are taken from the arrays."""

    def scalar(name: str, default: float | None = None) -> float:
        """What both stacks have in common."""
        found = {float(scalars.get(f"{side}/{name}", default or 0)) for side in _SIDES}
        if len(found) != 1 or (default is None and f"decoder/{name}" not in scalars):
            raise UserError(f"{path}: {name} of encoder and decoder is {found}, not the same")
        if not math.isfinite(value := found.pop()):
            raise UserError(f"{path}: {name} is {value}")
        return value

    settings.check("add_source_bos", False, None)
    # Where it is false the caller gives it to models of Marian, and to others nobody does.
    from_zero = bool(scalars.get("decoder/start_from_zero_embedding", 0))
    settings.check("add_source_eos", True, *([False] if from_zero else []))
    if unknown := [name for name in scalars if name.split("/", 1)[-1] not in _SCALARS]:
        raise UserError(
            f"{path} has {min(unknown)!r:.80}, which no field of our models says: it is a model of "
            "another kind"
        )
    for name in ("alibi", "multi_query_attention", "embeddings_merge"):
        if any(scalars.get(f"{side}/{name}", 0) for side in _SIDES):
            raise UserError(f"{path}: a model with {name} cannot be imported")
    activation = scalar("activation", 0)
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{path}: activation {activation:.0f} cannot be imported, only those of numbers "
            f"{', '.join(f'{n} ({name})' for n, name in _ACTIVATIONS.items())}"
        )
    d_ff, d_model = matrix_of(arrays, "encoder/layer_0/ffn/linear_0/weight", path).shape
    depths = [
        len({match[1] for name in arrays if (match := re.match(rf"{side}/layer_(\d+)/", name))})
        for side in _SIDES
    ]
    # A flag, or the factor itself.
    factor = scalar("scale_embeddings", 1)
    is_flag = scalars.get("encoder/scale_embeddings", np.int8(1)).dtype == np.int8
    scaled = bool(factor) if is_flag else math.isclose(factor, d_model**0.5, rel_tol=1e-3)
    if not is_flag and not scaled and factor != 1:
        raise UserError(f"{path}: embeddings times {factor} cannot be imported")
    epsilon = settings.values.get("layer_norm_epsilon")
    if epsilon is not None and (type(epsilon) is not float or not 0 < epsilon < 1):
        raise UserError(f"{settings.path}: layer_norm_epsilon must be in (0, 1), not {epsilon!r}")
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_heads": int(scalar("num_heads")),
        "num_layers": depths[0],
        "decoder_layers": depths[1],
        "activation": _ACTIVATIONS[int(activation)],
        "norm_placement": "pre" if scalar("pre_norm") else "post",
        "norm_epsilon": 1e-5 if epsilon is None else epsilon,
        "scale_embeddings": scaled,
        **_take_positions(arrays, d_model, path),
    }


def _take_positions(arrays: dict[str, np.ndarray], d_model: int, path: Path) -> dict[str, Any]:
    """Take the tables of positions out, and recognise them; one that is unknown was learned."""
    tables = [arrays.pop(f"{side}/position_encodings/encodings", None) for side in _SIDES]
    first, second = tables
    if first is None or second is None or not np.array_equal(first, second):
        raise UserError(
            f"{path}: encoder and decoder have not one table of positions for both: a model with "
            "other positions cannot be imported"
        )
    if first.ndim != 2 or first.shape[1] != d_model:
        raise UserError(f"{path}: positions are of shape {first.shape}, not [P, {d_model}]")
    rounded = 1e-3 if first.dtype != ml_dtypes.bfloat16 else 5e-3
    length, table = len(first), np.asarray(first, np.float32)
    for layout in get_args(SinusoidLayout) if d_model % 2 == 0 else ():
        known = np.asarray(sinusoids(length + max(_FIRST_POSITIONS), d_model, layout))
        for start in _FIRST_POSITIONS:
            if np.allclose(table, known[start : start + length], atol=rounded, rtol=0):
                return {
                    "position_encoding": layout, "first_position": start,
                    "max_positions": length + start,
                }  # fmt: skip
    arrays[NAMES.positions or ""] = first
    return {"position_encoding": "learned", "first_position": 0, "max_positions": length}


def _number(
    folder: Path, settings: Settings, scalars: Mapping[str, np.ndarray], table: np.ndarray
) -> tuple[list[Numbering], int]:
    """Read the list of tokens, or those of source and target, and say how the decoder starts."""
    files = [folder / "shared_vocabulary.json"]
    if not files[0].is_file():
        files = [folder / f"{side}_vocabulary.json" for side in ("source", "target")]
    lists = [_read_tokens(file) for file in files]
    specials = []
    for tokens in lists:
        place = {token: row for row, token in reversed([*enumerate(tokens)])}
        special = {
            ours: place.get(token) if isinstance(token, str) else None
            for ours in ("eos", "unk", "bos")
            for token in [settings.values.get(f"{ours}_token")]
        }
        if special["eos"] is None:
            raise UserError(f"{settings.path}: eos_token is in no list of tokens of {folder}")
        specials.append({**special, "pad": place.get("<pad>", place.get("<blank>"))})
    start = None
    if not scalars.get("decoder/start_from_zero_embedding", 0):
        start_token = settings.values.get("decoder_start_token", settings.values.get("bos_token"))
        if start_token not in lists[-1]:
            raise UserError(f"{settings.path}: decoder_start_token {start_token!r:.80} is no token")
        start = lists[-1].index(start_token)
    if len(lists[-1]) != len(table):
        raise UserError(
            f"{folder}: the target has {len(lists[-1])} tokens and a table of {len(table)} rows: "
            "the files do not belong together"
        )
    start_id, specials[-1]["bos"] = choose_start(start, specials[-1], table)
    return [number_tokens(*each) for each in zip(lists, specials, files)], start_id


def _read_tokens(path: Path) -> list[str]:
    try:
        tokens = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if type(tokens) is not list or not all(type(token) is str for token in tokens):
        raise UserError(f"{path} is damaged: it is no list of tokens")
    return tokens


def write_ctranslate2(translator: Translator, folder: Path, dtype: str = "float32") -> None:
    """Write a model, of which CTranslate2 computes in float32 what ours does, but for rounding.

    Args:
        translator: The model.
        folder: A folder that exists.
        dtype: One of `DTYPES`; norms and biases are never of 8 or 16 bits' integers.

    Raises:
        UserError: The model is of an architecture that CTranslate2 has not.
    """
    config, (source, target) = translator.model.config, translator.vocabularies
    layouts = get_args(SinusoidLayout)
    check_expressible(config, "CTranslate2", position_encoding=[*layouts, "learned"])
    variables = _fused(arrays_from_params(pairs_of(config, NAMES), translator.params))
    uses = list(NAMES.tables.values())
    for before, use in itertools.pairwise(uses):
        variables.setdefault(use, variables[before])
    variables.setdefault(NAMES.output_bias, np.zeros(config.target_size, np.float32))
    table = variables.pop(NAMES.positions or "", None)
    if table is None:
        end = _POSITIONS + config.first_position
        layout: Any = config.position_encoding
        table = np.asarray(sinusoids(end, config.d_model, layout))[config.first_position :]
    for side in _SIDES:
        variables[f"{side}/position_encodings/encodings"] = table
    rounded: dict[str, np.ndarray] = {}
    for name, array in variables.items():
        rounded |= _rounded(name, array, dtype)
    write_variables(rounded | _scalars(config), folder / "model.bin")
    names = ["shared"] if translator.vocabularies.joint else ["source", "target"]
    for name, vocabulary in zip(names, (source, target)):
        tokens = vocabulary.tokens(range(len(vocabulary)))
        (folder / f"{name}_vocabulary.json").write_text(json.dumps(tokens), encoding="utf-8")
    write_pieces(translator.vocabularies, folder)
    pad, eos, unk, bos = target.tokens(range(4))
    settings = {
        "unk_token": unk, "bos_token": bos, "eos_token": eos,
        "decoder_start_token": target.tokens([config.start_id])[0] if config.start_id else pad,
        "add_source_bos": False, "add_source_eos": True,
        "layer_norm_epsilon": config.norm_epsilon, "multi_query_attention": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _fused(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put projections that are one product together."""
    found = dict(arrays)
    for (block, number), parts in _FUSED.items():
        for name in [name for name in arrays if f"/{block}/{parts[0]}/" in name]:
            pieces = [found.pop(name.replace(f"/{parts[0]}/", f"/{part}/")) for part in parts]
            fused = name.replace(f"/{parts[0]}/", f"/linear_{number}/")
            found[fused] = np.concatenate(pieces)
    return found


def _rounded(name: str, array: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """An array as it is stored, and its scale where it has one."""
    if dtype in ("float32", "float16", "bfloat16"):
        return {name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)}
    if not name.endswith("/weight"):
        return {name: array}
    largest = np.abs(array).max(axis=1) if dtype == "int8" else np.abs(array).max()
    scale = np.asarray(127 if dtype == "int8" else 2**10, np.float32) / np.where(
        largest == 0, 127, largest
    ).astype(np.float32)
    whole = np.rint(array * (scale[:, None] if scale.ndim else scale))
    return {name: whole.astype(dtype), f"{name}_scale": scale}


def _scalars(config: ModelConfig) -> dict[str, np.ndarray]:
    """What is not an array there."""
    number = {name: number for number, name in _ACTIVATIONS.items()}[config.activation]
    flags: dict[str, int] = {"embeddings_merge": 0, "multi_query_attention": 0}
    flags |= {"activation": number, "pre_norm": config.norm_placement == "pre"}
    found: dict[str, Any] = {}
    for side in _SIDES:
        found[f"{side}/num_heads"] = np.int16(config.num_heads)
        found |= {f"{side}/{name}": np.int8(value) for name, value in flags.items()}
        factor = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        found[f"{side}/scale_embeddings"] = np.float32(factor)
    found["decoder/start_from_zero_embedding"] = np.int8(config.start_id == 0)
    found |= {"decoder/alignment_layer": np.int16(-1), "decoder/alignment_heads": np.int16(1)}
    for name in ("alibi", "alibi_use_positive_positions", "scale_alibi"):
        found[f"decoder/{name}"] = np.int8(0)
    return {name: np.asarray(value) for name, value in found.items()}
