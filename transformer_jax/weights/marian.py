"""Marian's own models: .npz files, and .bin files of the same arrays.

Layers are numbered from 1, matrices are stored as [in, out], vectors as [1, n]. Positions are
"t2t", the epsilon of norms is 1e-6, and the decoder starts with the vector of zeros (marian-dev,
src/models/transformer.h and src/layers/generic.h). The options of the model stand in the array
special:model.yml as YAML.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from transformer_jax.data.vocabulary import PAD_ID
from transformer_jax.errors import UserError
from transformer_jax.translator import Translator
from transformer_jax.weights.correspondence import (
    Ids,
    Names,
    arrays_from_params,
    check_expressible,
    matrix_of,
    pairs_of,
)
from transformer_jax.weights.foreign import ForeignModel, Settings, assemble
from transformer_jax.weights.marian_files import (
    read_bin,
    read_npz,
    read_options,
    read_tokens,
    vocabulary_files,
)
from transformer_jax.weights.numbering import (
    find_pieces,
    make_vocabularies,
    number_tokens,
    write_pieces,
)

__all__ = ["MODEL", "names_of", "read_marian", "write_marian"]

MODEL = "model.npz"
_OPTIONS = "special:model.yml"
_EPSILON = 1e-6
# Most tokens of a sentence where the options do not say it, as in Marian.
_LONGEST = 1000
_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
# Option -> value that an imported model must have; None is a missing one.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "type": ("transformer",),
    "transformer-decoder-autoreg": ("self-attention",),
    "transformer-ffn-depth": (2, None),
    "transformer-decoder-ffn-depth": (0, 2, None),
    "transformer-no-projection": (False, None),
    "transformer-no-bias": (False, None),
    "transformer-no-affine": (False, None),
    "transformer-rnn-projection": (False, None),
    "transformer-train-position-embeddings": (False, None),
    "transformer-postprocess-emb": ("d", "", None),
    "transformer-tied-layers": ([], None),
    "ulr": (False, None),
    "right-left": (False, None),
    "lemma-dim-emb": (0, None),
    # Its "gelu" is x sigmoid(1.702 x), which ours is not.
    "transformer-ffn-activation": ("relu", "swish"),
}
# Marian's engine translates pre-norm models otherwise than it trains them: from the second token
# on, keys and values of the decoder's self-attention are taken before the norm (measured with
# pymarian 1.12.42). Here they are what is trained.
_NORMS = {
    ("", "dan", ""): "post",
    ("n", "da", "n"): "pre",
}


def names_of(norm_placement: str) -> Names:
    """Name the arrays of a model.

    Args:
        norm_placement: As in `ModelConfig`; norms before a sub-layer have other names.
    """
    ending = "_pre" if norm_placement == "pre" else ""
    blocks = {"self_attention": "self", "cross_attention": "context"}
    return Names(
        layer="{side}_l{number}_",
        modules={
            **{
                f"{ours}/{mine}": f"{theirs}_{{}}{letter}"
                for ours, theirs in blocks.items()
                for mine, letter in _ATTENTION.items()
            },
            **{f"{ours}_norm": f"{theirs}_Wo_ln_{{}}{ending}" for ours, theirs in blocks.items()},
            "feed_forward/in": "ffn_{}1",
            "feed_forward/out": "ffn_{}2",
            "feed_forward_norm": f"ffn_ffn_ln_{{}}{ending}",
        },
        top="{side}_top_ln_{}",
        linear={"kernel": "W", "bias": "b"},
        norm={"gain": "scale", "bias": "bias"},
        tables={
            "source": "encoder_Wemb",
            "target": "decoder_Wemb",
            "output": "decoder_ff_logit_out_Wt",
        },
        output_bias="decoder_ff_logit_out_b",
        first=1,
        is_transposed=False,
    )


def read_marian(path: Path) -> ForeignModel:
    """Read a model, and the vocabulary that stands beside it.

    That is one .yml file for both sides, or one for each in the order of decoder.yml's `vocabs`,
    and SentencePiece models that stand beside it cut text; or such models alone.

    Args:
        path: The .npz or .bin file.

    Raises:
        UserError: A file is missing or damaged, or the model is of another kind.
    """
    arrays = read_bin(path) if path.suffix == ".bin" else read_npz(path)
    options = Settings(path, _read_options(path, arrays.pop(_OPTIONS, None)))
    placement = _check_options(options)
    names = names_of(placement)
    arrays = _in_our_names(arrays, names)
    fields = {**_fields(options, arrays), "norm_placement": placement}
    files = vocabulary_files(path)
    sides = [
        number_tokens(tokens, _special(tokens, file), file)
        for file in files
        for tokens in [read_tokens(file)]
    ]
    own = all(file.suffix == ".spm" for file in files)
    pieces = (files[0], files[-1]) if own else find_pieces(path.parent)
    vocabularies = make_vocabularies(sides, pieces)
    longest = options.values.get("max-length")
    longest = longest if type(longest) is int and longest > 1 else _LONGEST
    ids = Ids(sides[0].ids, sides[-1].ids)
    return assemble(path, arrays, names, ids, vocabularies, fields, longest)


def _read_options(path: Path, array: np.ndarray | None) -> dict[str, Any]:
    if array is None:
        raise UserError(f"{path} is no model of Marian: it has no {_OPTIONS}")
    return read_options(array.tobytes().replace(b"\0", b""), f"{path}: {_OPTIONS}")


def _check_options(options: Settings) -> str:
    """Raise UserError for what ours cannot be; return `ModelConfig.norm_placement`."""
    for option, values in _REQUIRED.items():
        options.check(option, *values)
    steps = tuple(
        str(options.values.get(f"transformer-{name}") or "")
        for name in ("preprocess", "postprocess", "postprocess-top")
    )
    if steps not in _NORMS:
        raise UserError(
            f"{options.path}: transformer-preprocess, -postprocess and -postprocess-top are "
            f"{steps!r:.80}, and only '', 'dan', '' or 'n', 'da', 'n' can be imported"
        )
    return _NORMS[steps]


def _in_our_names(arrays: Mapping[str, np.ndarray], names: Names) -> dict[str, np.ndarray]:
    """Vectors without their first axis, and tables by the names of `names_of`."""
    found = {
        name: array[0] if array.ndim == 2 and len(array) == 1 else array
        for name, array in arrays.items()
    }
    if "Wemb" in found:
        found[names.tables["source"]] = found.pop("Wemb")
    if "decoder_ff_logit_out_W" in found:
        found[names.tables["output"]] = found.pop("decoder_ff_logit_out_W").T
    return found


def _fields(options: Settings, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fields of `ModelConfig`; sizes are compared with the arrays before memory is taken."""
    for option, name in (("dim-emb", "encoder_Wemb"), ("transformer-dim-ffn", "encoder_l1_ffn_W1")):
        array, found = matrix_of(arrays, name, options.path), options.values.get(option)
        if found != array.shape[1]:
            raise UserError(
                f"{options.path}: {option} is {found!r:.80}, but {name} has the shape {array.shape}"
            )
    d_model = arrays["encoder_Wemb"].shape[1]
    return {
        "d_model": d_model,
        "d_ff": arrays["encoder_l1_ffn_W1"].shape[1],
        "num_heads": options.integer("transformer-heads", d_model, least=1),
        "num_layers": options.integer("enc-depth", len(arrays), least=1),
        "decoder_layers": options.integer("dec-depth", len(arrays), least=1),
        "activation": options.values["transformer-ffn-activation"],
        "norm_epsilon": _EPSILON,
        "position_encoding": "t2t",
        "start_id": PAD_ID,  # the vector of zeros
    }


def _special(tokens: list[str], path: Path) -> dict[str, int | None]:
    """Marian's own are </s> and <unk>; files of ours have padding and a start, too."""
    place = {token: row for row, token in reversed([*enumerate(tokens)])}
    found = {
        ours: place.get(spelling)
        for ours, spelling in (
            ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"), ("bos", "<s>")
        )
    }  # fmt: skip
    for ours in ("eos", "unk"):
        if found[ours] is None:
            raise UserError(f"{path} has no {'</s>' if ours == 'eos' else '<unk>'}")
    return found


def write_marian(translator: Translator, folder: Path) -> None:
    """Write model.npz, vocab.yml (or one of each side), decoder.yml and SentencePiece models.

    Args:
        translator: A model with "t2t" positions, as Marian computes no others.
        folder: A folder that exists.

    Raises:
        UserError: The model cannot be expressed there.
    """
    config, vocabularies = translator.model.config, translator.vocabularies
    check_expressible(
        config,
        "Marian",
        position_encoding=["t2t"],
        first_position=[0],
        scale_embeddings=[True],
        start_id=[PAD_ID],
        activation=_REQUIRED["transformer-ffn-activation"],
    )
    names = names_of(config.norm_placement)
    arrays = arrays_from_params(pairs_of(config, names), translator.params)
    if config.tied_embeddings == "all":
        arrays["Wemb"] = arrays.pop(names.tables["source"])
    arrays.setdefault(names.output_bias, np.zeros(config.target_size, np.float32))
    arrays = {name: x[None] if x.ndim == 1 else x for name, x in arrays.items()}
    tied = config.tied_embeddings
    options = {
        "type": "transformer", "version": "v1.12.0", "dim-emb": config.d_model,
        "dim-vocabs": [config.vocab_size, config.target_size],
        "enc-depth": config.encoder_depth, "dec-depth": config.decoder_depth,
        "transformer-heads": config.num_heads, "transformer-dim-ffn": config.d_ff,
        "transformer-ffn-depth": 2, "transformer-ffn-activation": config.activation,
        "transformer-preprocess": "n" if config.norm_placement == "pre" else "",
        "transformer-postprocess": "da" if config.norm_placement == "pre" else "dan",
        "transformer-postprocess-emb": "d",
        "transformer-postprocess-top": "n" if config.norm_placement == "pre" else "",
        "transformer-decoder-autoreg": "self-attention", "transformer-no-projection": False,
        "transformer-train-position-embeddings": False, "transformer-tied-layers": [],
        "transformer-guided-alignment-layer": "last", "max-length": translator.max_length,
        "tied-embeddings-all": tied == "all", "tied-embeddings-src": False,
        "tied-embeddings": tied == "decoder", "input-types": [], "skip": False,
        "layer-normalization": False, "right-left": False, "lemma-dim-emb": 0,
    }  # fmt: skip
    # CTranslate2 takes the last byte off, and all others for YAML.
    text = yaml.safe_dump(options).encode() + b"\0"
    arrays[_OPTIONS] = np.frombuffer(text, np.int8)
    np.savez(folder / MODEL, **arrays)  # type: ignore[arg-type]
    files = ["vocab.yml"] if vocabularies.joint else ["vocab.source.yml", "vocab.target.yml"]
    for name, vocabulary in zip(files, vocabularies):
        tokens = vocabulary.tokens(range(len(vocabulary)))
        lines = [f"{json.dumps(t, ensure_ascii=False)}: {n}\n" for n, t in enumerate(tokens)]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    decoder = {"models": [MODEL], "vocabs": [files[0], files[-1]], "relative-paths": True}
    (folder / "decoder.yml").write_text(yaml.safe_dump(decoder), encoding="utf-8")
    write_pieces(vocabularies, folder)
