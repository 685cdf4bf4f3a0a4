"""What the rest of the package asks of a vocabulary, and what all kinds of them share."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from transformer_jax.errors import UserError, is_encodable

__all__ = [
    "BOS_ID",
    "EOS_ID",
    "PAD_ID",
    "SPECIAL",
    "UNK_ID",
    "Vocabulary",
    "VocabularyError",
    "check_text",
    "read_types",
]

PAD_ID, EOS_ID, UNK_ID, BOS_ID = range(4)
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")


class VocabularyError(UserError):
    """A vocabulary that cannot be built or read; the message says why and what to do."""


class Vocabulary(Protocol):
    """What the rest of the package asks of a vocabulary; ids carry no EOS."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text's tokens, UNK_ID for those that it does not know.

        Raises:
            UserError: The text has an unpaired surrogate, as a command-line argument that
                is not valid UTF-8 has.
        """
        ...

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, faster than one by one."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        ...

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The pieces of ids, as the vocabulary spells them."""
        ...

    def __len__(self) -> int: ...

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        ...

    def save(self, folder: Path) -> None:
        """Write the vocabulary to a folder, as a file of its kind's name."""
        ...


def read_types(path: Path) -> list[str]:
    """Read a list of types that JSON holds; VocabularyError where it is none."""
    try:
        types = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path} is damaged: {error}") from None
    if not isinstance(types, list) or not all(isinstance(each, str) for each in types):
        raise VocabularyError(f"{path} is damaged: not a list of strings")
    if not is_encodable("".join(types)):
        raise VocabularyError(f"{path} is damaged: it has an unpaired surrogate")
    return types


def check_text(texts: Sequence[str]) -> None:
    """Raise UserError for a text with an unpaired surrogate."""
    for text in texts:
        if isinstance(text, str) and not is_encodable(text):
            raise UserError(f"{text!r:.80} has an unpaired surrogate: give valid UTF-8")
