"""Vocabularies of other toolkits: a SentencePiece model cuts, and a list of its own numbers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformer_jax.data.vocabulary_protocol import (
    BOS_ID,
    SPECIAL,
    UNK_ID,
    Vocabulary,
    VocabularyError,
    check_text,
    read_types,
)

__all__ = ["PieceVocabulary"]

_SPACE = "\u2581"


class PieceVocabulary(Vocabulary):
    """Pieces of a SentencePiece model with ids of a list of types, as OPUS-MT has them.

    The models of source and target may cut differently and share the list, so that one table of
    embeddings serves both. Where a text begins with a sign such as >>deu<<, that is one token. The
    model's own normalisation applies: decode(encode(text)) need not be the text.

    Attributes:
        types: Spelling of each id; the first four are ours.
    """

    FILE = "pieces.json"
    MODEL = "pieces.model"

    def __init__(self, model: bytes, types: Sequence[str]):
        """Make a vocabulary.

        Args:
            model: A SentencePiece model.
            types: What ids from 4 on mean.

        Raises:
            VocabularyError: It is no such model, or a type stands twice.
        """
        import sentencepiece

        try:
            # Of no bytes it would make a processor without a model, which complains at each use.
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"empty")
        except (RuntimeError, TypeError):
            raise VocabularyError("not a SentencePiece model") from None
        self.types = [*SPECIAL, *types]
        self._model = model
        self._ids = {spelling: number for number, spelling in enumerate(self.types)}
        if len(self._ids) != len(self.types):
            raise VocabularyError("a vocabulary holds one of its types twice")

    def encode(self, text: str) -> list[int]:
        check_text([text])
        sign, rest = _split_sign(text)
        pieces = [*sign, *self._processor.encode(rest, out_type=str)]
        # The names of special symbols are no tokens: text cannot forge an end of sentence.
        ids = (self._ids.get(piece, UNK_ID) for piece in pieces)
        return [number if number > BOS_ID else UNK_ID for number in ids]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.types[number] for number in ids]

    def decode(self, ids: Iterable[int]) -> str:
        pieces = self.tokens(number for number in ids if number > BOS_ID)
        return self._processor.decode(pieces).replace(_SPACE, " ").strip()

    def __len__(self) -> int:
        return len(self.types)

    def to_bytes(self) -> bytes:
        return self._list() + b"\0" + self._model

    def _list(self) -> bytes:
        text = json.dumps(self.types[len(SPECIAL) :], ensure_ascii=False, indent=0)
        return f"{text}\n".encode()

    def save(self, folder: Path) -> None:
        (folder / self.MODEL).write_bytes(self._model)
        (folder / self.FILE).write_bytes(self._list())

    @classmethod
    def load(cls, folder: Path) -> "PieceVocabulary":
        """Read what `save` wrote.

        Raises:
            VocabularyError: A file is missing or damaged.
        """
        path = folder / cls.MODEL
        types = read_types(folder / cls.FILE)
        try:
            return cls(path.read_bytes(), types)
        except OSError as error:
            raise VocabularyError(f"{path}: {error.strerror}") from None
        except VocabularyError as error:
            raise VocabularyError(f"{path} is damaged: {error}") from None


def _split_sign(text: str) -> tuple[list[str], str]:
    """Split the sign of a language off, where a text begins with one.

    >>> _split_sign(">>deu<< A dog."), _split_sign("A dog.")
    ((['>>deu<<'], ' A dog.'), ([], 'A dog.'))
    """
    end = text.find("<<") if text.startswith(">>") else -1
    return ([], text) if end < 0 else ([text[: end + 2]], text[end + 2 :])
