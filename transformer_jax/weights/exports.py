"""A run's model for another toolkit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import __version__
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.text_pipeline import PipelineVocabulary
from transformer_jax.devices.settings import usual_settings
from transformer_jax.errors import UserError
from transformer_jax.files import check_new_folder, replaced_folder
from transformer_jax.models.families import build_model
from transformer_jax.run.single_file import open_run, write_single_file
from transformer_jax.run.variables import load_variables
from transformer_jax.translator import Translator
from transformer_jax.weights.ctranslate2 import DTYPES, write_ctranslate2
from transformer_jax.weights.huggingface import EPSILON, write_huggingface
from transformer_jax.weights.marian import write_marian
from transformer_jax.weights.stablehlo import write_stablehlo

__all__ = ["EXPORTS", "epsilon_difference", "export_model"]


# What was exported, and what the format's own epsilon of norms changes.
RECORD = "export.json"


class Export(NamedTuple):
    """A format that models are exported to.

    Attributes:
        write: (run folder, name of the checkpoint, path to write, dtype) -> as `export_model`.
        dtypes: What weights can be written as.
    """

    write: Callable[[Path, str, Path, str], float]
    dtypes: tuple[str, ...] = ("float32",)


def _to_folder(
    write: Callable[[Translator, Path, str], None], epsilon: float | None = None
) -> Callable[[Path, str, Path, str], float]:
    """Make an `Export.write` of what fills a folder; all norms have `epsilon` there, if one is
    given."""

    def export(run_dir: Path, checkpoint: str, out: Path, dtype: str) -> float:
        check_new_folder(out, run_dir)
        out = out.resolve()  # "." has no name of its own
        translator = Translator.load(run_dir, checkpoint)
        pairing = translator.task.pairing
        if pairing != Pairing(joint=pairing.joint):
            raise UserError(
                f"{run_dir} was trained for another task than translation, whose rows of ids "
                f"({pairing}) no other toolkit makes: it leaves as safetensors alone"
            )
        if any(isinstance(each, PipelineVocabulary) for each in translator.vocabularies):
            raise UserError(
                f"{run_dir} prepares text before its vocabulary cuts it (text_pipeline.json), and "
                "no other toolkit would: it leaves as safetensors alone"
            )
        difference = 0.0 if epsilon is None else epsilon_difference(translator, epsilon)
        record = {
            "version": __version__,
            "checkpoint": translator.checkpoint,
            "norm_epsilon": translator.model.config.norm_epsilon,
            "exported_norm_epsilon": epsilon,
            "largest_difference_of_log_probabilities": difference,
        }
        with replaced_folder(out) as partial:
            write(translator, partial, dtype)
            (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return difference

    return export


def _to_file(run_dir: Path, checkpoint: str, out: Path, dtype: str) -> float:
    run = open_run(run_dir)
    write_single_file(run, *load_variables(run, checkpoint), out)
    return 0.0


EXPORTS: dict[str, Export] = {
    "huggingface": Export(_to_folder(lambda t, folder, _: write_huggingface(t, folder), EPSILON)),
    "ctranslate2": Export(_to_folder(write_ctranslate2), DTYPES),
    "marian": Export(_to_folder(lambda t, folder, _: write_marian(t, folder), 1e-6)),
    "stablehlo": Export(_to_folder(lambda t, folder, _: write_stablehlo(t, folder))),
    "safetensors": Export(_to_file),
}


@usual_settings()
def export_model(
    run_dir: str | Path,
    format_name: str,
    out: str | Path,
    *,
    checkpoint: str = "averaged",
    dtype: str = "float32",
) -> float:
    """Write a run's model for another toolkit, or as one file for a colleague.

    Args:
        run_dir: The run folder, or a file of one.
        format_name: One of `EXPORTS`.
        out: What to write: a folder that does not exist or is empty, or a file of safetensors.
        checkpoint: "averaged", "best", "last" or a step.
        dtype: What weights are written as.

    Returns:
        The largest difference of log-probabilities that the format's own epsilon of norms makes
        (`epsilon_difference`); 0 where it keeps ours.

    Raises:
        UserError: The model cannot be expressed in the format, or nothing can be written there.
    """
    export = EXPORTS.get(format_name)
    if export is None:
        raise UserError(f"{format_name!r} is not one of {', '.join(EXPORTS)}")
    if dtype not in export.dtypes:
        raise UserError(
            f"dtype {dtype!r} is not one of {', '.join(export.dtypes)}, which {format_name} has"
        )
    return export.write(Path(run_dir), checkpoint, Path(out), dtype)


def epsilon_difference(translator: Translator, epsilon: float) -> float:
    """Measure how far log-probabilities move with another epsilon of norms.

    Args:
        translator: The model.
        epsilon: The other one.

    Returns:
        The largest difference, over all tokens, at each position of 8 random sentences.
    """
    config = translator.model.config
    if config.norm_epsilon == epsilon:
        return 0.0
    rng = np.random.default_rng(0)
    source, target = (
        jnp.asarray(rng.integers(4, size, (8, 16)), jnp.int32)
        for size in (config.vocab_size, config.target_size)
    )

    def log_probs(epsilon: float) -> jax.Array:
        model = build_model(replace(config, norm_epsilon=epsilon))
        logits: Any = model.apply({"params": translator.params}, source, target)
        return jax.nn.log_softmax(logits)

    return float(jnp.abs(log_probs(epsilon) - log_probs(config.norm_epsilon)).max())
