"""Vocabularies of other toolkits: a SentencePiece model cuts, and a list of its own numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from transformer_jax.data.vocabulary_protocol import (
    BOS_ID,
    SPACE_SIGN,
    ListedVocabulary,
    VocabularyError,
    check_text,
    read_types,
)

__all__ = ["PieceVocabulary"]


class PieceVocabulary(ListedVocabulary):
    """Pieces of a SentencePiece model with ids of a list of types, as OPUS-MT has them.

    The models of source and target may cut differently and share the list, so that one table of
    embeddings serves both. Where a text begins with a language code such as >>deu<<, that is one
    token. The model's own normalisation applies: decode(encode(text)) need not be the text.
    """

    FILE = "pieces.json"
    MODEL = "pieces.model"
    pieces: bytes

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
        except (RuntimeError, TypeError, UnicodeDecodeError):
            raise VocabularyError("not a SentencePiece model") from None
        self.pieces = model
        super().__init__(types)

    def encode(self, text: str) -> list[int]:
        check_text([text])
        code, rest = self.split_language_code(text)
        pieces = self._processor.encode(rest, out_type=str)
        return self._numbers([code, *pieces] if code else pieces)

    def split_language_code(self, text: str) -> tuple[str, str]:
        end = text.find("<<") if text.startswith(">>") else -1
        return ("", text) if end < 0 else (text[: end + 2], text[end + 2 :])

    def spellings(self) -> list[str]:
        """List the pieces of the model itself, by its own ids."""
        processor = self._processor
        return [processor.id_to_piece(number) for number in range(processor.get_piece_size())]

    def decode(self, ids: Iterable[int]) -> str:
        pieces = self.tokens(number for number in ids if number > BOS_ID)
        return self._processor.decode(pieces).replace(SPACE_SIGN, " ").strip()

    def to_bytes(self) -> bytes:
        return self._list() + b"\0" + self.pieces

    def save(self, folder: Path) -> None:
        (folder / self.MODEL).write_bytes(self.pieces)
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
