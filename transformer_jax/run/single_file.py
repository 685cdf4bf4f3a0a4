"""A trained model as one file: parameters, configuration and vocabulary, without a job's state.

A safetensors file. Arrays are called by their paths in Flax's variables, as in
params/encoder_0/self_attention/query/kernel, and files of the vocabulary are arrays of bytes called
vocabulary/NAME. The metadata hold config.json, the name of the checkpoint, and a fingerprint of
each array.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.data.vocabulary import load_vocabularies, save_vocabularies
from transformer_jax.errors import UserError
from transformer_jax.files import write_atomically
from transformer_jax.run.folder import Run
from transformer_jax.training.fingerprint import fingerprints

__all__ = ["open_run", "open_single_file", "read_single_file", "write_single_file"]

_METADATA, _VOCABULARY = "transformer_jax", "vocabulary/"


def write_single_file(run: Run, variables: Any, checkpoint: str, path: Path) -> None:
    """Write a model.

    Args:
        run: The run.
        variables: What it predicts with, as Flax has them.
        checkpoint: Where they came from.
        path: The file, which must not exist.

    Raises:
        UserError: It exists, or cannot be written.
    """
    from safetensors.numpy import save

    if path.exists():
        raise UserError(f"{path} exists: choose another file")
    arrays = _flattened(variables)
    known = {
        "run": run.config_tree(),
        "checkpoint": checkpoint,
        "fingerprints": fingerprints(arrays),
    }
    with tempfile.TemporaryDirectory() as folder:
        save_vocabularies(run.vocabularies, Path(folder))
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                name = _VOCABULARY + file.relative_to(folder).as_posix()
                arrays[name] = np.frombuffer(file.read_bytes(), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(arrays, {_METADATA: json.dumps(known)}))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: choose another file") from None


def open_run(path: Path) -> Run:
    """Open a run folder, or a file of one.

    Args:
        path: The folder or the file.

    Raises:
        UserError: It is neither, or damaged.
    """
    return open_single_file(path) if path.is_file() else Run.open(path)


def open_single_file(path: Path) -> Run:
    """Open a file as a run, whose folder it is.

    Args:
        path: The file.

    Raises:
        UserError: It is missing, damaged, or no such file.
    """
    arrays, known = _read(path)
    with tempfile.TemporaryDirectory() as folder:
        for name, array in arrays.items():
            if not name.startswith(_VOCABULARY):
                continue
            parts = name.removeprefix(_VOCABULARY).split("/")
            if array.dtype != np.uint8 or len(parts) > 2 or not all(map(_is_plain, parts)):
                raise UserError(f"{path} is damaged: it has a file {name!r:.80}")
            file = Path(folder, *parts)
            try:
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(array.tobytes())
            except OSError:
                raise UserError(f"{path} is damaged: it has a file {name!r:.80}") from None
        try:
            vocabularies = load_vocabularies(Path(folder))
        except UserError as error:
            reason = str(error).replace(str(folder), "its vocabulary")
            raise UserError(f"{path} is damaged: {reason}") from None
        return Run.from_tree(path, known.get("run"), vocabularies)


def read_single_file(path: Path) -> tuple[dict[str, Any], str]:
    """Read what a model predicts with, and the name of the checkpoint that it was.

    Args:
        path: The file.

    Raises:
        UserError: It is missing, damaged, or no such file.
    """
    arrays, known = _read(path)
    leaves = {n: jnp.asarray(x) for n, x in arrays.items() if not n.startswith(_VOCABULARY)}
    if any(leaf.dtype != jnp.float32 for leaf in leaves.values()):
        raise UserError(f"{path} is damaged: it has parameters that are not float32")
    if fingerprints(leaves) != known.get("fingerprints"):
        raise UserError(f"{path} is damaged: its arrays have other fingerprints than it says")
    variables: dict[str, Any] = {}
    for name, array in leaves.items():
        *outer, last = name.split("/")
        tree = variables
        for key in outer:
            tree = tree.setdefault(key, {})
            if not isinstance(tree, dict):
                raise UserError(f"{path} is damaged: {name!r:.80} is below an array")
        tree[last] = array
    return variables, f"{known.get('checkpoint')} of {path.name}"


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            known = json.loads((file.metadata() or {}).get(_METADATA, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it cannot be iterated)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(known, dict):
        raise UserError(f"{path} is no file of transformer-jax export: it has no configuration")
    return arrays, known


def _is_plain(part: str) -> bool:
    """Whether a name is that of a file, and not a way out of the folder."""
    return part not in ("", ".", "..") and "\\" not in part and "\0" not in part


def _flattened(variables: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
