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
    "SPACE_SIGN",
    "SPECIAL",
    "UNK_ID",
    "ListedVocabulary",
    "Vocabulary",
    "VocabularyError",
    "check_text",
    "read_types",
]

PAD_ID, EOS_ID, UNK_ID, BOS_ID = range(4)
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")
# SentencePiece's sign for the space before a word.
SPACE_SIGN = "\u2581"


class VocabularyError(UserError):
    """A vocabulary that cannot be built or read; the message says why and what to do."""


class Vocabulary(Protocol):
    """What the rest of the package asks of a vocabulary; ids carry no EOS.

    Attributes:
        pieces: The SentencePiece model that cuts text; None where spaces do.
        is_tokenized: Whether text and translations are tokens that spaces separate.
    """

    pieces: bytes | None
    is_tokenized: bool = False

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

    def split_language_code(self, text: str) -> tuple[str, str]:
        """Split a text into the code of the target language that it begins with, and the rest.

        Only vocabularies with such codes for tokens have any.
        """
        return "", text

    def __len__(self) -> int: ...

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        ...

    def save(self, folder: Path) -> None:
        """Write the vocabulary to a folder, as a file of its kind's name."""
        ...


class ListedVocabulary(Vocabulary):
    """A vocabulary that is a list of types; a subclass says how text is cut into them.

    Attributes:
        types: Spelling of each id; the first four are ours.
    """

    pieces: bytes | None = None

    def __init__(self, types: Iterable[str]):
        """Make a vocabulary.

        Args:
            types: What ids from 4 on mean.

        Raises:
            VocabularyError: A type stands twice.
        """
        self.types = [*SPECIAL, *types]
        self._ids = {spelling: number for number, spelling in enumerate(self.types)}
        if len(self._ids) != len(self.types):
            raise VocabularyError("a vocabulary holds one of its types twice")

    def _numbers(self, tokens: Iterable[str]) -> list[int]:
        """Ids of spellings.

        The names of special symbols are no tokens: text cannot forge an end of sentence.
        """
        ids = (self._ids.get(token, UNK_ID) for token in tokens)
        return [number if number > BOS_ID else UNK_ID for number in ids]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.types[number] for number in ids]

    def __len__(self) -> int:
        return len(self.types)

    def _list(self) -> bytes:
        """The types from id 4 on as JSON, which `read_types` reads."""
        text = json.dumps(self.types[len(SPECIAL) :], ensure_ascii=False, indent=0)
        return f"{text}\n".encode()


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
