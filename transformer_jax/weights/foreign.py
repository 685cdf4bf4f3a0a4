"""A model of another toolkit, read whole: what each reader gives, and a run folder is made of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import ConfigError, ModelConfig
from transformer_jax.data.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabularies
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run
from transformer_jax.weights.correspondence import (
    NEVER,
    Ids,
    Names,
    pairs_of,
    params_from_arrays,
    untie_tables,
)

__all__ = ["ForeignModel", "Settings", "assemble", "choose_start", "plain_options"]

# Stands for what no option of a model is, and would not be shown in a message either.
_OTHER = "(neither a number nor a short text)"


class ForeignModel(NamedTuple):
    """A model in our terms.

    Attributes:
        config: The model.
        params: Its parameters, of our ids, float32.
        vocabularies: Those of both sides.
        ids: The foreign id of each of ours, of each side.
        weights: The file of the parameters.
        max_length: Most tokens of a sentence, EOS included.
        languages: Codes of source and target, where they are known.
        run: What is known of a run of ours.
        collections: What a model's variables hold beside its parameters.
    """

    config: ModelConfig
    params: dict[str, Any]
    vocabularies: Vocabularies
    ids: Ids
    weights: Path
    max_length: int
    languages: tuple[str, str] | None = None
    run: Run | None = None
    collections: dict[str, Any] | None = None


def plain_options(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Keep numbers, short texts and short lists of them, as options of a model are.

    Others may be nested so deeply, or so often, that comparing or showing them would not end.

    Args:
        values: Options as a file holds them.

    >>> plain_options({"heads": 8, "ties": [], "else": {"a": 1}})
    {'heads': 8, 'ties': [], 'else': '(neither a number nor a short text)'}
    """

    def is_plain(value: Any) -> bool:
        if type(value) is int:
            return abs(value) < 2**63
        if type(value) is list:
            return len(value) <= 8 and all(
                type(each) is not list and is_plain(each) for each in value
            )
        return (
            value is None
            or type(value) in (bool, float)
            or (type(value) is str and len(value) <= 200)
        )

    return {
        name: value if is_plain(value) else _OTHER
        for name, value in values.items()
        if type(name) is str
    }


def choose_start(
    start: int | None, special: Mapping[str, int | None], table: np.ndarray
) -> tuple[int, int | None]:
    """Say how our decoder starts as a foreign one does.

    Args:
        start: The foreign id that it starts with; None is the vector of zeros.
        special: Foreign ids of "eos" and "bos", the start symbol that has a name.
        table: The target's table [V, D].

    Returns:
        `ModelConfig.start_id`, and the foreign id of our start symbol.

    >>> choose_start(2, {"eos": 2, "bos": None}, np.ones((3, 4)))
    (1, None)
    """
    if start is None or not table[start].any():
        return PAD_ID, special["bos"]
    return (EOS_ID, special["bos"]) if start == special["eos"] else (BOS_ID, start)


def assemble(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    names: Names,
    ids: Ids,
    vocabularies: Vocabularies,
    fields: Mapping[str, Any],
    max_length: int,
    languages: tuple[str, str] | None = None,
) -> ForeignModel:
    """Make a model of foreign arrays.

    Args:
        path: Their file.
        arrays: All of them, by name; tables of which one is missing are copies of the one before.
        names: Those of the format.
        ids: The foreign id of each id of ours.
        vocabularies: Those of both sides.
        fields: Those of `ModelConfig` that do not follow from the rest.
        max_length: Most tokens of a sentence, EOS included.
        languages: Codes of source and target, where they are known.

    Raises:
        UserError: The parts do not belong together.
    """
    left, tied = untie_tables(arrays, names.tables, vocabularies.joint, str(path))
    bias = left.pop(names.output_bias, None)
    # A row that has two ids of ours would count twice; a search writes neither of these.
    taken, copies = {ids.target[EOS_ID], ids.target[UNK_ID]}, []
    for special in (PAD_ID, BOS_ID):
        row = ids.target[special]
        copies += [special] if row in taken and row is not None else []
        taken.add(row)
    has_bias = None in ids.target or bool(copies) or (bias is not None and bool(np.any(bias)))
    if has_bias:
        rows = 1 + max(number for number in ids.target if number is not None)
        left[names.output_bias] = np.zeros(rows, np.float32) if bias is None else bias.reshape(-1)
    try:
        config = ModelConfig(
            vocab_size=len(ids.source),
            target_vocab_size=None if vocabularies.joint else len(ids.target),
            tied_embeddings=tied,
            output_bias=has_bias,
            **fields,
        )
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from None
    params = params_from_arrays(pairs_of(config, names), left, ids, str(path))
    if copies:
        params["output_bias"][copies] = NEVER
    return ForeignModel(config, params, vocabularies, ids, path, max_length, languages)


class Settings:
    """The options of a model, checked one by one as they are asked for."""

    def __init__(self, path: Path, values: dict[str, Any]):
        """Keep options.

        Args:
            path: The file that they stand in, for messages.
            values: Name -> value.
        """
        self.path, self.values = path, values

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read a file.

        Args:
            path: A JSON object.

        Raises:
            UserError: It is missing, or is none.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged: it holds no object")
        return cls(path, values)

    def integer(self, name: str, most: int, least: int = 0) -> int:
        """Return a whole number from `least` to `most`."""
        value = self.values.get(name)
        if type(value) is not int or not least <= value <= most:
            raise UserError(
                f"{self.path}: {name} must be a whole number from {least} to {most}, not "
                f"{value!r:.80}"
            )
        return value

    def share(self, name: str, default: float) -> float:
        """Return a number from 0 to 1, 1 excluded."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise UserError(f"{self.path}: {name} must be in [0, 1), not {value!r:.80}")
        return float(value)

    def check(self, name: str, *allowed: Any) -> None:
        """Raise UserError for a value that our model cannot express; None is a missing one."""
        value = self.values.get(name)
        if not any(type(value) is type(each) and value == each for each in allowed):
            known = " or ".join(repr(each) for each in allowed if each is not None)
            raise UserError(
                f"{self.path}: {name} is {value!r:.80}, and only {known} can be imported"
            )
