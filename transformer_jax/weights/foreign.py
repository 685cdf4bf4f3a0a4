"""A model of another toolkit, read whole: what each reader gives, and a run folder is made of."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformer_jax.config import ModelConfig
from transformer_jax.data.vocabulary import Vocabularies
from transformer_jax.errors import UserError

__all__ = ["ForeignModel", "Settings"]


class ForeignModel(NamedTuple):
    """A model in our terms.

    Attributes:
        config: The model.
        params: Its parameters, of our ids, float32.
        vocabularies: Those of both sides.
        ids: The foreign id of each of ours.
        weights: The file of the parameters.
        max_length: Most tokens of a sentence, EOS included.
        languages: Codes of source and target, where they are known.
    """

    config: ModelConfig
    params: dict[str, Any]
    vocabularies: Vocabularies
    ids: list[int]
    weights: Path
    max_length: int
    languages: tuple[str, str] | None = None


class Settings:
    """The values of a JSON file, checked one by one as they are asked for."""

    def __init__(self, path: Path):
        """Read a file.

        Args:
            path: A JSON object.

        Raises:
            UserError: It is missing, or is none.
        """
        self.path = path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged: it holds no object")
        self.values: dict[str, Any] = values

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
