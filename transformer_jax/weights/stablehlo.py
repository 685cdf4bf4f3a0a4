"""A run as programs of StableHLO, which jax alone runs: scoring, greedy and beam search.

    score.stablehlo    (parameters, source [B, S], target [B, T]) -> log-probabilities [B, T]
    greedy.stablehlo   (parameters, source [B, S]) -> tokens, lengths, log-probabilities, scores
    beam.stablehlo     the same, as `generate` gives them
    parameters.npz     arrays of the parameters
    model.json         the order of these arrays, the longest sentence, the search, ids and tokens
    source.spm, ...    SentencePiece models, where text is cut by them

B is any number, S and T are any multiples of 8 up to the longest sentence; rows end in EOS and are
filled with padding. For CPUs, CUDA and TPUs in one file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.data.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from transformer_jax.decoding.generate import generate
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.functional.losses import token_log_probs
from transformer_jax.models.families import family_of
from transformer_jax.translator import Translator
from transformer_jax.weights.numbering import write_pieces

__all__ = ["MULTIPLE", "PLATFORMS", "write_stablehlo"]

PLATFORMS = ("cpu", "cuda", "tpu")
# Of lengths: a program whose lengths are any would not be as fast.
MULTIPLE = 8
# Positions that a sinusoid is computed of, where the model has no table of them.
_LONGEST = 65_536
_BEAM, _GREEDY = Search(beam_size=4, alpha=0.6), Search(method="greedy")


def write_stablehlo(translator: Translator, folder: Path) -> None:
    """Write the programs of a model.

    Args:
        translator: The model, of one of the families of this package.
        folder: A folder that exists.

    Raises:
        UserError: flatbuffers is not installed, or the model has a state beside its parameters.
    """
    from jax import export

    model, params = translator.model, translator.params
    if model.config.normalization == "batch":
        raise UserError(
            "normalization 'batch' cannot be expressed in stablehlo here, only 'layer': nothing "
            "was written"
        )
    leaves, tree = jax.tree.flatten(params)
    longest = (family_of(model.config).max_length(model.config) or _LONGEST) // MULTIPLE * MULTIPLE
    arrays = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def rows(sides: str) -> list[jax.ShapeDtypeStruct]:
        """Token ids of as many sentences, each side of another length."""
        lengths = [f"{MULTIPLE}*{side}" for side in sides]
        known = [f"{length} <= {longest}" for length in lengths]
        batch, *found = export.symbolic_shape(", ".join(["b", *lengths]), constraints=known)
        return [jax.ShapeDtypeStruct((batch, length), jnp.int32) for length in found]

    def score(parameters: list[jax.Array], source: jax.Array, target: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": jax.tree.unflatten(tree, parameters)}, source, target)
        return jnp.where(target == PAD_ID, 0.0, token_log_probs(logits, target))

    def searching(search: Search) -> Callable:
        def find(parameters: list[jax.Array], source: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(generate(model, jax.tree.unflatten(tree, parameters), source, search))

        return find

    programs: dict[str, tuple[Callable, str]] = {
        "score": (score, "st"), "greedy": (searching(_GREEDY), "s"), "beam": (searching(_BEAM), "s")
    }  # fmt: skip
    for name, (function, sides) in programs.items():
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(arrays, *rows(sides))
        try:
            (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
        except ImportError:
            raise UserError(
                "jax.export serialises with flatbuffers, which is not installed: pip install "
                "flatbuffers"
            ) from None
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    np.savez(folder / "parameters.npz", **dict(zip(paths, map(np.asarray, leaves))))  # type: ignore[arg-type]
    source_vocabulary, target_vocabulary = translator.vocabularies
    known = {
        "parameters": paths,
        "max_length": longest,
        "beam_size": _BEAM.beam_size,
        "alpha": _BEAM.alpha,
        "extra_length": _BEAM.extra_length,
        "pad_id": PAD_ID,
        "eos_id": EOS_ID,
        "unk_id": UNK_ID,
        "bos_id": BOS_ID,
        "source_tokens": source_vocabulary.tokens(range(len(source_vocabulary))),
        "target_tokens": target_vocabulary.tokens(range(len(target_vocabulary))),
    }
    text = json.dumps(known, ensure_ascii=False, indent=1) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")
    write_pieces(translator.vocabularies, folder)
