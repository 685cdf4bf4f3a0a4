"""A run's model for another toolkit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.devices.settings import usual_settings
from transformer_jax.errors import UserError
from transformer_jax.files import check_new_folder, replaced_folder
from transformer_jax.models.families import build_model
from transformer_jax.translator import Translator
from transformer_jax.weights.ctranslate2 import DTYPES, write_ctranslate2
from transformer_jax.weights.huggingface import EPSILON, write_huggingface
from transformer_jax.weights.marian import write_marian

__all__ = ["EXPORTS", "epsilon_difference", "export_model"]


class Export(NamedTuple):
    """A format that models are exported to.

    Attributes:
        write: (translator, folder, dtype) writes it.
        dtypes: What weights can be written as.
        epsilon: That of its norms, where it has one for all models.
    """

    write: Callable[[Translator, Path, str], None]
    dtypes: tuple[str, ...] = ("float32",)
    epsilon: float | None = None


EXPORTS: dict[str, Export] = {
    "huggingface": Export(lambda t, folder, _: write_huggingface(t, folder), epsilon=EPSILON),
    "ctranslate2": Export(write_ctranslate2, DTYPES),
    "marian": Export(lambda t, folder, _: write_marian(t, folder), epsilon=1e-6),
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
    """Write a run's model for another toolkit.

    Args:
        run_dir: The run folder.
        format_name: One of `EXPORTS`.
        out: The folder to write, which must not exist or be empty.
        checkpoint: "averaged", "best", "last" or a step.
        dtype: What weights are written as.

    Returns:
        The largest difference of log-probabilities that the format's own epsilon of norms makes
        (`epsilon_difference`); 0 where it keeps ours.

    Raises:
        UserError: The model cannot be expressed in the format, or the folder cannot be written.
    """
    export, folder = EXPORTS.get(format_name), Path(out)
    if export is None:
        raise UserError(f"{format_name!r} is not one of {', '.join(EXPORTS)}")
    if dtype not in export.dtypes:
        raise UserError(
            f"dtype {dtype!r} is not one of {', '.join(export.dtypes)}, which {format_name} has"
        )
    check_new_folder(folder, Path(run_dir))
    translator = Translator.load(run_dir, checkpoint)
    with replaced_folder(folder) as partial:
        export.write(translator, partial, dtype)
    return 0.0 if export.epsilon is None else epsilon_difference(translator, export.epsilon)


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
        return jax.nn.log_softmax(model.apply({"params": translator.params}, source, target))

    return float(jnp.abs(log_probs(epsilon) - log_probs(config.norm_epsilon)).max())
