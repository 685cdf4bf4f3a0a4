"""Token ids for text: encode, decode, len. Ids 0 to 3 mean the same in every vocabulary."""

import io
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer_jax.data.pieces import PieceVocabulary
from transformer_jax.data.text_pipeline import PipelineVocabulary, TextPipeline
from transformer_jax.data.vocabulary_protocol import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SPECIAL,
    UNK_ID,
    ListedVocabulary,
    Vocabulary,
    VocabularyError,
    check_text,
    read_types,
)

__all__ = [
    "BOS_ID",
    "EOS_ID",
    "PAD_ID",
    "UNK_ID",
    "SentencePieceVocabulary",
    "Vocabularies",
    "Vocabulary",
    "VocabularyError",
    "WhitespaceVocabulary",
    "load_vocabularies",
    "load_vocabulary",
    "save_vocabularies",
    "train_vocabulary",
]


class WhitespaceVocabulary(ListedVocabulary):
    """Tokens as the text separates them by spaces, for text segmented already.

    >>> vocabulary = WhitespaceVocabulary.train(["a b b", "b c"], 100)
    >>> vocabulary.encode("b a d")
    [4, 5, 2]
    >>> vocabulary.decode([4, 5])
    'b a'
    """

    FILE = "vocabulary.json"
    is_tokenized = True

    @classmethod
    def train(cls, lines: Iterable[str], vocab_size: int) -> "WhitespaceVocabulary":
        """Types by falling frequency, ties in alphabetical order, at most `vocab_size` rows."""
        counts = Counter(token for line in lines for token in line.split(" ") if token)
        for special in SPECIAL:
            del counts[special]
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(ranked[: max(vocab_size - len(SPECIAL), 0)])

    def encode(self, text: str) -> list[int]:
        return self._numbers(token for token in text.split(" ") if token)

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.tokens(ids))

    def to_bytes(self) -> bytes:
        return self._list()

    def save(self, folder: Path) -> None:
        (folder / self.FILE).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, folder: Path) -> "WhitespaceVocabulary":
        """Read what `save` wrote.

        Raises:
            VocabularyError: The file is damaged.
        """
        return cls(read_types(folder / cls.FILE))


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model (Kudo & Richardson 2018) that changes nothing about the text.

    No normalisation, whitespace kept, bytes for unseen characters: decode(encode(text)) is text,
    except that U+2581, SentencePiece's own sign for a space, comes back as a space.
    """

    FILE = "vocabulary.model"

    def __init__(self, model: bytes):
        import sentencepiece

        try:
            # Of no bytes it would make a processor without a model, which complains at each use.
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"empty")
            first = self.tokens(range(len(self)))[: len(SPECIAL)]
        except (RuntimeError, TypeError, UnicodeDecodeError):
            raise VocabularyError("not a SentencePiece model") from None
        if tuple(first) != SPECIAL:
            raise VocabularyError(f"its first pieces are {first}, not {list(SPECIAL)}")
        self.pieces = model

    @classmethod
    def train(
        cls, lines: Iterable[str], vocab_size: int, kind: str, symbols: Sequence[str] = ()
    ) -> "SentencePieceVocabulary":
        """Train a SentencePiece model; deterministic for given lines.

        Args:
            lines: The text.
            vocab_size: Pieces to learn.
            kind: bpe or unigram.
            symbols: Text that is one piece wherever it stands.
        """
        import sentencepiece

        model = io.BytesIO()
        stopped: list[BaseException] = []

        def sentences():
            try:
                # The trainer reads UTF-8 lines; NUL is its own separator.
                yield from (line.replace("\0", "") for line in lines if line)
            except BaseException as error:  # Ctrl-C too: the trainer would word it as its own
                stopped.append(error)
                raise

        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sentences(),
                model_writer=model,
                model_type=kind,
                user_defined_symbols=list(symbols),
                vocab_size=vocab_size,
                pad_id=PAD_ID,
                eos_id=EOS_ID,
                unk_id=UNK_ID,
                bos_id=BOS_ID,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                byte_fallback=True,
                character_coverage=0.9999,
                # Sampling lines would make the vocabulary depend on the trainer's threads.
                input_sentence_size=0,
                max_sentence_length=1 << 20,
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            if stopped:
                raise stopped[0] from None
            raise VocabularyError(
                f"cannot train a {kind} vocabulary of vocab_size {vocab_size} on this text: "
                f"{_reason(str(error))}"
            ) from None
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        try:
            return self._processor.encode(text)
        except RuntimeError:
            check_text([text])
            raise

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return self._processor.encode(list(texts))
        except (RuntimeError, TypeError):
            check_text(texts)
            raise

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self._processor.id_to_piece(int(number)) for number in ids]

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(number) for number in ids])

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def to_bytes(self) -> bytes:
        return self.pieces

    def save(self, folder: Path) -> None:
        (folder / self.FILE).write_bytes(self.pieces)

    @classmethod
    def load(cls, folder: Path) -> "SentencePieceVocabulary":
        """Read what `save` wrote.

        Raises:
            VocabularyError: The file is damaged.
        """
        path = folder / cls.FILE
        try:
            return cls(path.read_bytes())
        except VocabularyError as error:
            raise VocabularyError(f"{path} is damaged: {error}") from None


def _reason(message: str) -> str:
    """What the trainer's message, written for its own options, means here."""
    if most := re.search(r"value <= (\d+)", message):
        return f"it allows at most {most[1]} pieces; lower vocab_size or give more text"
    if least := re.search(r"\d+ vs (\d+)", message):
        return f"its characters and the bytes alone are {least[1]}; raise vocab_size"
    return f"{message.strip() or 'no text'}; choose another vocab_size or give more text"


def train_vocabulary(
    kind: str, lines: Iterable[str], vocab_size: int, symbols: Sequence[str] = ()
) -> Vocabulary:
    """Train a vocabulary of one of DataConfig.vocabulary's kinds.

    Args:
        kind: bpe, unigram or whitespace.
        lines: The text of all sides that share it.
        vocab_size: Most types.
        symbols: Text that is one piece wherever it stands; words of a whitespace vocabulary are
            that anyway.
    """
    if kind == "whitespace":
        return WhitespaceVocabulary.train(lines, vocab_size)
    return SentencePieceVocabulary.train(lines, vocab_size, kind, symbols)


class Vocabularies(NamedTuple):
    """The vocabularies of source and target; a shared one is given twice."""

    source: Vocabulary
    target: Vocabulary

    @property
    def joint(self) -> bool:
        """Whether both sides number their tokens alike, so that one table of embeddings does."""
        source, target = (
            each.inner if isinstance(each, PipelineVocabulary) else each for each in self
        )
        if source is target:
            return True
        if isinstance(source, PieceVocabulary) and isinstance(target, PieceVocabulary):
            return source.types == target.types
        # One that both pipelines of a folder share was read twice.
        return (source, target) != tuple(self) and source.to_bytes() == target.to_bytes()

    @classmethod
    def with_pipelines(
        cls, source: Vocabulary, target: Vocabulary, pipelines: Sequence[TextPipeline]
    ) -> "Vocabularies":
        """Put a pipeline before each vocabulary; one that does nothing is left out.

        Args:
            source: The source's.
            target: The target's.
            pipelines: Those of source and target.
        """
        source, target = (
            each if pipeline == TextPipeline() else PipelineVocabulary(pipeline, each)
            for each, pipeline in zip((source, target), pipelines)
        )
        return cls(source, target)

    @property
    def distinct(self) -> list[Vocabulary]:
        """List the source's and, if it is another one, the target's."""
        return [self.source] if self.source is self.target else [*self]

    def __str__(self) -> str:
        """Show how many types there are, of both sides or of each."""
        return f"{len(self.source)}" if self.joint else " + ".join(str(len(v)) for v in self)


_KINDS = (SentencePieceVocabulary, WhitespaceVocabulary, PieceVocabulary)
# Folder, beside the source's vocabulary, of one that the target has for itself.
_TARGET = "target_vocabulary"


def save_vocabularies(vocabularies: Vocabularies, folder: Path) -> None:
    """Write the source's, or that of both, to the folder, and the target's own one below it.

    Those of other kinds that stood there are removed.

    Args:
        vocabularies: Those of source and target.
        folder: A folder that exists.
    """
    for file in (*(kind.FILE for kind in (*_KINDS, PipelineVocabulary)), PieceVocabulary.MODEL):
        (folder / file).unlink(missing_ok=True)
    shutil.rmtree(folder / _TARGET, ignore_errors=True)
    vocabularies.source.save(folder)
    if len(vocabularies.distinct) > 1:
        (folder / _TARGET).mkdir(exist_ok=True)
        vocabularies.target.save(folder / _TARGET)


def load_vocabularies(folder: Path) -> Vocabularies:
    """Read what `save_vocabularies` wrote to a folder."""
    source = load_vocabulary(folder)
    own = (folder / _TARGET).is_dir()
    return Vocabularies(source, load_vocabulary(folder / _TARGET) if own else source)


def load_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary that `save` wrote to a folder."""
    for kind in _KINDS:
        if (folder / kind.FILE).is_file():
            found: Vocabulary = kind.load(folder)
            piped = (folder / PipelineVocabulary.FILE).is_file()
            return PipelineVocabulary.load(folder, found) if piped else found
    raise VocabularyError(f"{folder} holds no vocabulary")
