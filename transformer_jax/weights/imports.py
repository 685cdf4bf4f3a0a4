"""A model of another toolkit as a run folder, which needs nothing of the source afterwards."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.config import DataConfig, RunConfig
from transformer_jax.data.text_pipeline import TextPipeline
from transformer_jax.data.vocabulary import UNK_ID, Vocabularies, save_vocabularies
from transformer_jax.data.vocabulary_protocol import SPACE_SIGN
from transformer_jax.devices.settings import usual_settings
from transformer_jax.errors import UserError
from transformer_jax.files import check_new_folder, replaced_folder
from transformer_jax.run.folder import Origin, Run, check_store
from transformer_jax.run.single_file import open_single_file
from transformer_jax.run.variables import load_variables
from transformer_jax.weights.correspondence import Ids
from transformer_jax.weights.ctranslate2 import read_ctranslate2
from transformer_jax.weights.fairseq import read_fairseq
from transformer_jax.weights.foreign import ForeignModel
from transformer_jax.weights.huggingface import read_huggingface
from transformer_jax.weights.marian import read_marian

__all__ = ["FORMATS", "Format", "import_model", "recognize_format"]


class Format(NamedTuple):
    """A format that models are imported from.

    Attributes:
        is_at: Whether a path looks like one.
        read: Reads it.
        what: What a path of this format holds, for messages.
    """

    is_at: Callable[[Path], bool]
    read: Callable[[Path], ForeignModel]
    what: str


def _read_own(path: Path) -> ForeignModel:
    """A model of ours as one file."""
    run = open_single_file(path)
    variables, _ = load_variables(run)
    data, train = run.config.data, replace(run.config.train, checkpoint_dir=None)
    run.config = replace(run.config, train=train, data=replace(data, corpus=None))
    ids = Ids(*(range(len(vocabulary)) for vocabulary in run.vocabularies))
    params = variables.pop("params")
    return ForeignModel(
        run.config.model, params, run.vocabularies, ids, path, data.max_length, None, run, variables
    )


FORMATS: dict[str, Format] = {
    "ctranslate2": Format(
        lambda path: (path / "config.json").is_file() and (path / "model.bin").is_file(),
        read_ctranslate2,
        "a folder with model.bin, config.json and shared_vocabulary.json, or one of each side",
    ),
    "huggingface": Format(
        lambda path: (path / "config.json").is_file() and (path / "vocab.json").is_file(),
        read_huggingface,
        "a folder with config.json, model.safetensors or pytorch_model.bin, vocab.json, source.spm "
        "and target.spm",
    ),
    "marian": Format(
        lambda path: path.is_file() and path.suffix in (".npz", ".bin"),
        read_marian,
        "a file .npz or .bin, with its vocabulary as *vocab*.yml or .spm beside it",
    ),
    "safetensors": Format(
        lambda path: path.is_file() and path.suffix == ".safetensors",
        _read_own,
        "a file .safetensors that `transformer-jax export` wrote",
    ),
    "fairseq": Format(
        lambda path: path.is_file() and path.suffix == ".pt",
        read_fairseq,
        "a file .pt, with dict.SOURCE.txt and dict.TARGET.txt beside it",
    ),
}


def recognize_format(path: Path) -> str:
    """Return the name of the format of a path.

    Raises:
        UserError: It is of none.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a model of another toolkit")
    for name, each in FORMATS.items():
        if each.is_at(path):
            return name
    known = "; ".join(f"{name}: {each.what}" for name, each in FORMATS.items())
    raise UserError(f"{path} is of no format that can be imported ({known})")


@usual_settings()
def import_model(path: str | Path, run_dir: str | Path, source_tag: str | None = None) -> Run:
    """Make a run folder of a model of another toolkit.

    The run translates, scores and evaluates, and `train` may start others from it (`init_from`); it
    cannot be resumed, as no state of an optimizer came with it.

    Args:
        path: The model; its format is recognised.
        run_dir: The run folder, which must not exist or be empty.
        source_tag: A token that every source begins with, as >>deu<< in models of several target
            languages. A line that begins with one of its own keeps that.

    Returns:
        The run.

    Raises:
        UserError: The model or the folder cannot be used; nothing is written.
    """
    path, folder = Path(path), Path(run_dir).resolve()
    check_store(folder)
    check_new_folder(folder, path)
    name = recognize_format(path)
    model = FORMATS[name].read(path)
    with model.weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if source_tag is not None:
        model = _with_tag(model, source_tag)
    config = model.run.config if model.run is not None else _configuration(model, source_tag)
    lines = None if model.run is None else model.run.lines
    origin = Origin(name, path.resolve().name, digest)
    with replaced_folder(folder) as partial:
        run = Run(partial, config, digest, model.vocabularies, lines, origin)
        _check_shapes(run, model)
        save_vocabularies(model.vocabularies, partial)
        checkpoints = run.checkpoints()
        items = {"params": model.params, **({"collections": c} if (c := model.collections) else {})}
        items = jax.tree.map(jnp.asarray, items)
        checkpoints.save(0, items, {"run_identity": run.identity})
        checkpoints.close()
        run.write_config()
    return Run.open(folder)


def _with_tag(model: ForeignModel, tag: str) -> ForeignModel:
    """The model with a tag before every source."""
    if model.run is not None:
        raise UserError(
            f"source_tag {tag}: {model.weights} has what its run began with: leave it out"
        )
    source, target = model.vocabularies
    pipeline = TextPipeline(tag=tag)
    ids = [n for n in source.encode(tag) if source.tokens([n]) != [SPACE_SIGN]]
    if len(ids) != 1 or UNK_ID in ids:
        raise UserError(f"source_tag {tag}: the model has no such token: give one that it knows")
    return model._replace(
        vocabularies=Vocabularies.with_pipelines(source, target, (pipeline, TextPipeline()))
    )


def _configuration(model: ForeignModel, source_tag: str | None) -> RunConfig:
    direction = "-".join(model.languages) if model.languages else None
    data = DataConfig(direction=direction, source_tag=source_tag)
    return RunConfig(
        model.config, data=replace(data, max_length=min(model.max_length, data.batch_tokens))
    )


def _check_shapes(run: Run, model: ForeignModel) -> None:
    """Raise UserError where an array is not as large as the configuration says."""
    wanted = run.step_functions().shapes().params
    found = {jax.tree_util.keystr(p): x.shape for p, x in _leaves(model.params)}
    for path, leaf in _leaves(wanted):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = found.get(jax.tree_util.keystr(path))
        if shape != leaf.shape:
            raise UserError(
                f"{model.weights}: the array of {name} is {shape}, but the configuration says "
                f"{leaf.shape}: the files do not belong together"
            )


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)
