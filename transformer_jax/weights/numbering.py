"""Ids of a foreign vocabulary, and the vocabularies of ours that number the same tokens."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer_jax.data.pieces import PieceVocabulary
from transformer_jax.data.vocabulary import Vocabularies, Vocabulary, WhitespaceVocabulary
from transformer_jax.data.vocabulary_protocol import SPECIAL, VocabularyError
from transformer_jax.errors import UserError, is_encodable

__all__ = [
    "Numbering",
    "find_pieces",
    "make_vocabularies",
    "number_tokens",
    "read_pieces",
    "write_pieces",
]


class Numbering(NamedTuple):
    """A foreign vocabulary in our terms.

    Attributes:
        ids: The foreign id of each id of ours, None where there is no such row.
        types: What ids of ours from 4 on mean.
    """

    ids: list[int | None]
    types: list[str]

    def vocabulary(self, model: Path | None) -> Vocabulary:
        """Make the vocabulary.

        Args:
            model: A SentencePiece model that cuts text; None where tokens are separated by spaces.

        Raises:
            UserError: The file is missing or damaged.
        """
        if model is None:
            return WhitespaceVocabulary(self.types)
        return _read_model(model, self.types)


def _read_model(model: Path, types: Sequence[str]) -> PieceVocabulary:
    try:
        return PieceVocabulary(model.read_bytes(), types)
    except OSError as error:
        raise UserError(f"{model}: {error.strerror}") from None
    except VocabularyError as error:
        raise UserError(f"{model}: {error}") from None


def read_pieces(model: Path) -> list[str]:
    """List the pieces of a SentencePiece model in the order of their ids.

    Args:
        model: The file.

    Raises:
        UserError: It is missing or damaged.
    """
    return _read_model(model, []).spellings()


def number_tokens(
    tokens: Sequence[str | None], special: Mapping[str, int | None], source: Path
) -> Numbering:
    """Number foreign tokens as ours: padding, end of sentence, unknown and start come first, and
    then all others in their order.

    Args:
        tokens: Spelling of each foreign id; None of one that has no name.
        special: Foreign ids of "pad", "eos", "unk" and "bos"; None where there is none.
        source: The file, for messages.

    Raises:
        UserError: A token stands twice, or is no text.

    >>> special = {"eos": 0, "unk": 1, "pad": None, "bos": None}
    >>> number_tokens(["</s>", "<unk>", "a", "b"], special, Path("vocab.json"))
    Numbering(ids=[None, 0, 1, None, 2, 3], types=['a', 'b'])
    """
    if not is_encodable("".join(token or "" for token in tokens)):
        raise UserError(f"{source} is damaged: it has an unpaired surrogate")
    first = [special[name] for name in ("pad", "eos", "unk", "bos")]
    rest = [row for row in range(len(tokens)) if row not in first]
    types = []
    for row in rest:
        # A row without a name, or with that of another special symbol, is spelled by its number.
        token = tokens[row]
        types.append(f"<row {row}>" if token is None or token in SPECIAL else token)
    for token, count in Counter(types).most_common(1):
        if count > 1:
            raise UserError(f"{source} has the token {token!r:.80} twice")
    return Numbering([*first, *rest], types)


def make_vocabularies(
    sides: Sequence[Numbering], models: tuple[Path | None, Path | None]
) -> Vocabularies:
    """Make the vocabularies of both sides, one of which serves both where they are equal.

    Args:
        sides: That of both, or of source and target.
        models: Their SentencePiece models, as `find_pieces` finds them.

    Raises:
        UserError: A model is missing or damaged.
    """
    source, target = sides[0].vocabulary(models[0]), sides[-1].vocabulary(models[1])
    is_same = sides[0] == sides[-1] and source.pieces == target.pieces
    return Vocabularies(source, source if is_same else target)


def find_pieces(folder: Path) -> tuple[Path | None, Path | None]:
    """Find the SentencePiece models of source and target that stand beside a model.

    They are source.spm and target.spm, or one file for both that ends in .spm or, as that of
    fairseq's models, is called sentencepiece.bpe.model.

    Args:
        folder: The folder.

    Returns:
        Their paths; None where text is cut by spaces, since there is no such file.

    Raises:
        UserError: It cannot be told which is meant.
    """
    sides = folder / "source.spm", folder / "target.spm"
    if all(path.is_file() for path in sides):
        return sides
    found = [*folder.glob("*.spm"), *folder.glob("sentencepiece*.model")]
    if len(found) > 1 or any(path in sides for path in found):
        raise UserError(
            f"{folder} has {len(found)} SentencePiece models: call them source.spm and target.spm, "
            "or leave one that both sides share"
        )
    return (found[0], found[0]) if found else (None, None)


def write_pieces(vocabularies: Vocabularies, folder: Path) -> None:
    """Write the SentencePiece models where `find_pieces` finds them; none of tokens that spaces
    separate.

    Args:
        vocabularies: Those of both sides.
        folder: A folder that exists.
    """
    for name, vocabulary in zip(("source.spm", "target.spm"), vocabularies):
        if vocabulary.pieces is not None:
            (folder / name).write_bytes(vocabulary.pieces)
