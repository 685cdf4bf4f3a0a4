"""fairseq's checkpoints of its `transformer`: a .pt file, with dict.*.txt beside it.

Positions are "t2t", of which the first is 2 (sinusoidal_positional_embedding.py); the epsilon of
norms is 1e-5; the decoder starts with </s>. Checkpoints of before 2020 have other names for some
arrays, which are read, too.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.config.languages import is_direction, languages_of
from transformer_jax.data.vocabulary import EOS_ID
from transformer_jax.errors import UserError
from transformer_jax.weights.correspondence import Ids, matrix_of
from transformer_jax.weights.foreign import ForeignModel, assemble, plain_options
from transformer_jax.weights.numbering import find_pieces, make_vocabularies, number_tokens
from transformer_jax.weights.torch_files import TorchFile
from transformer_jax.weights.torch_names import torch_names

__all__ = ["NAMES", "read_fairseq"]

NAMES = torch_names(
    "",
    {
        "source": "encoder.embed_tokens.weight",
        "target": "decoder.embed_tokens.weight",
        "output": "decoder.output_projection.weight",
    },
    "decoder.output_projection.bias",
)
# Its own tokens, before those of dict.*.txt, and what they are to us.
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_SPECIAL = {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
_ACTIVATIONS = ("relu", "swish", "gelu")
# Position of the first token: padding's id, and one.
_FIRST_POSITION = 2
# Option -> values that an imported model may have; None is a missing one.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "no_token_positional_embeddings": (False, None),
    "encoder_learned_pos": (False, None),
    "decoder_learned_pos": (False, None),
    "no_scale_embedding": (False, None),
    "layernorm_embedding": (False, None),
    "adaptive_input": (False, None),
    "adaptive_softmax_cutoff": (None,),
    "cross_self_attention": (False, None),
    "no_cross_attention": (False, None),
    "no_decoder_final_norm": (False, None),
}


def read_fairseq(path: Path) -> ForeignModel:
    """Read a checkpoint, and the lists of tokens that stand beside it.

    They are dict.SOURCE.txt and dict.TARGET.txt of the languages that the checkpoint names, or one
    dict.txt. A SentencePiece model that stands beside it cuts text; otherwise spaces do, and text
    is to be cut as for fairseq, such as by subword-nmt.

    Args:
        path: The .pt file.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    file = TorchFile(path)
    tree = file.tree if type(file.tree) is dict else {}
    options = _options(tree, path)
    arrays = _new_names(file.arrays(tree.get("model")))
    fields = _fields(options, arrays, path)
    languages = options.get("source_lang"), options.get("target_lang")
    sides = [
        number_tokens(_read_dictionary(dictionary), _SPECIAL, dictionary)
        for dictionary in _find_dictionaries(path.parent, languages)
    ]
    vocabularies = make_vocabularies(sides, find_pieces(path.parent))
    ids = Ids(*(side.ids for side in sides))
    longest = options.get("max_target_positions")
    longest = longest if type(longest) is int and longest > 1 else 1024
    direction = "-".join(str(language) for language in languages)
    known = languages_of(direction) if is_direction(direction) else None
    return assemble(path, arrays, NAMES, ids, vocabularies, fields, longest, known)


def _options(tree: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The options of the model, where old and new checkpoints have them."""
    found = tree.get("args")
    if found is None and type(tree.get("cfg")) is dict:
        found = tree["cfg"].get("model")
    if type(found) is not dict or type(tree.get("model")) is not dict:
        raise UserError(f"{path} is no checkpoint of fairseq: it has not both options and a model")
    task = tree["cfg"].get("task") if type(tree.get("cfg")) is dict else None
    return plain_options({**(task if type(task) is dict else {}), **found})


def _new_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by the names of today, without what follows from the rest."""
    found: dict[str, np.ndarray] = {}
    norms = {
        "encoder": {"0": "self_attn_layer_norm", "1": "final_layer_norm"},
        "decoder": {
            "0": "self_attn_layer_norm", "1": "encoder_attn_layer_norm", "2": "final_layer_norm"
        },
    }  # fmt: skip
    for name, array in arrays.items():
        if re.fullmatch(r"(encoder|decoder)\.(version|embed_positions\._float_tensor)", name):
            continue
        if match := re.fullmatch(r"(.*_attn\.)in_proj_(weight|bias)", name):
            if not array.ndim or len(array) % 3:
                raise UserError(f"{name} of shape {array.shape} is not three projections")
            for part, value in zip("qkv", np.split(array, 3)):
                found[f"{match[1]}{part}_proj.{match[2]}"] = value
            continue
        if match := re.fullmatch(
            r"((encoder|decoder)\.layers\.\d+\.)layer_norms\.(\d)\.(\w+)", name
        ):
            new = norms[match[2]].get(match[3], f"layer_norms.{match[3]}")
            name = f"{match[1]}{new}.{match[4]}"
        if name == "decoder.embed_out":
            name = "decoder.output_projection.weight"
        found[name] = array
    return found


def _fields(
    options: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: Path
) -> dict[str, Any]:
    """Fields of `ModelConfig`; sizes are those of the arrays."""
    for option, values in _ALLOWED.items():
        if (value := options.get(option)) not in values:
            raise UserError(f"{path}: {option} is {value!r:.80}: such a model cannot be imported")
    pairs = {
        name: [options.get(f"{side}_{name}") for side in ("encoder", "decoder")]
        for name in ("attention_heads", "normalize_before", "layers")
    }
    heads, before, depths = pairs["attention_heads"], pairs["normalize_before"], pairs["layers"]
    inner = matrix_of(arrays, "encoder.layers.0.fc1.weight", path)
    for name, both in pairs.items():
        if name != "layers" and both[0] != both[1]:
            raise UserError(f"{path}: {name} of encoder and decoder are {both!r:.80}, not the same")
    if type(before[0]) is not bool:
        raise UserError(f"{path}: encoder_normalize_before is {before[0]!r:.80}, not true or false")
    for name, value in (("attention_heads", heads[0]), *(("layers", depth) for depth in depths)):
        most = inner.shape[1] if name == "attention_heads" else len(arrays)
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(
                f"{path}: {name} must be a whole number from 1 to {most}, not {value!r:.80}"
            )
    activation = options.get("activation_fn") or "relu"
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{path}: activation_fn is {activation!r:.80}, and only {', '.join(_ACTIVATIONS)} can "
            "be imported"
        )
    rates = {
        ours: rate
        for ours in ("dropout", "attention_dropout", "activation_dropout")
        if type(rate := options.get(ours)) is float and 0 <= rate < 1
    }
    return {
        **rates,
        "d_model": inner.shape[1],
        "d_ff": inner.shape[0],
        "num_heads": heads[0],
        "num_layers": depths[0],
        "decoder_layers": depths[1],
        "activation": activation,
        "norm_placement": "pre" if before[0] else "post",
        "norm_epsilon": 1e-5,
        "position_encoding": "t2t",
        "first_position": _FIRST_POSITION,
        "start_id": EOS_ID,
    }


def _find_dictionaries(folder: Path, languages: tuple[Any, Any]) -> list[Path]:
    shared = folder / "dict.txt"
    found = [folder / f"dict.{language}.txt" for language in languages]
    if all(path.is_file() for path in found):
        return found
    if not shared.is_file():
        raise UserError(
            f"{folder} has neither {found[0].name} and {found[1].name} nor dict.txt, the lists of "
            "tokens that the checkpoint numbers"
        )
    return [shared, shared]


def _read_dictionary(path: Path) -> list[str]:
    """The tokens of a file with one and its count a line, behind fairseq's own."""
    try:
        # Not splitlines: a token may be U+2028.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    tokens = list(_FIRST)
    for number, line in enumerate(lines, 1):
        token, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not token or not count.isdecimal():
            raise UserError(f"{path}, line {number}: {line!r:.80} is not a token and its count")
        tokens.append(token)
    return tokens
