"""From text files to a prepared corpus: vocabulary, token arrays, and what they were made from."""

import dataclasses
import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.config import ConfigError, DataConfig, PathPair, from_tree
from transformer_jax.data.corpus import CorpusError, write_corpus
from transformer_jax.data.text import TextError, read_pairs
from transformer_jax.data.vocabulary import Vocabulary, train_vocabulary

__all__ = ["Receipt", "prepare"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """What a prepared folder was made from: SHA-256 of each file, and the settings."""

    train: PathPair
    validation: PathPair | None
    vocabulary: str
    vocab_size: int
    """As asked for; the vocabulary may be smaller."""
    max_length: int
    reused_vocabulary: str | None
    """SHA-256 of a vocabulary that was given, not trained."""

    FILE = "inputs.json"

    @classmethod
    def of(
        cls, train: PathPair, data: DataConfig, vocab_size: int, vocabulary: Vocabulary | None
    ) -> "Receipt":
        return cls(
            _digests(train),
            _digests(data.validation) if data.validation else None,
            data.vocabulary,
            vocab_size,
            data.max_length,
            hashlib.sha256(vocabulary.to_bytes()).hexdigest() if vocabulary else None,
        )

    @classmethod
    def read(cls, folder: Path) -> "Receipt | None":
        """The receipt in a folder; None where there is none or it is damaged."""
        try:
            return from_tree(cls, json.loads((folder / cls.FILE).read_text(encoding="utf-8")), "")
        except (OSError, ValueError, RecursionError, ConfigError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        (folder / self.FILE).write_text(text, encoding="utf-8")

    def changed_file(self, data: DataConfig) -> str | None:
        """A training file of `data` that is there but is not the one prepared."""
        for path, digest in zip(data.train or (), self.train):
            if Path(path).is_file() and _digest(path) != digest:
                return path
        return None


def prepare(
    data: DataConfig,
    vocab_size: int,
    folder: Path,
    vocabulary: Vocabulary | None = None,
    *,
    replace: bool = False,
) -> Path:
    """Train the vocabulary and tokenise the text into folder/train and folder/validation.

    A `vocabulary` that is given is used as it is. What is there already from the same files with
    the same settings is left alone; what is there from others is an error, or replaced.
    """
    if data.train is None:
        raise CorpusError("no training text: give --train SOURCE TARGET")
    receipt, found = Receipt.of(data.train, data, vocab_size, vocabulary), Receipt.read(folder)
    if found == receipt:
        log.info("%s is prepared already", folder)
        return folder
    if found is not None and not replace:
        raise CorpusError(
            f"{folder} was prepared from other text or with other settings, and runs may depend on "
            "it: give another folder, or remove this one first"
        )
    for pair in (data.train, data.validation):
        _check_text(pair)
    if vocabulary is None:
        lines = (line for pair in read_pairs(*data.train) for line in pair)
        vocabulary = train_vocabulary(data.vocabulary, lines, vocab_size)
    (folder / Receipt.FILE).unlink(missing_ok=True)
    corpus = write_corpus(folder / "train", read_pairs(*data.train), vocabulary, data.max_length)
    left_out = corpus.left_out
    log.info(
        "%s: %d pairs, vocabulary of %d; left out: %d with an empty side, %d beyond max_length %d",
        folder, len(corpus), len(vocabulary), left_out["empty"], left_out["too_long"],
        data.max_length,
    )  # fmt: skip
    shutil.rmtree(folder / "validation", ignore_errors=True)
    if data.validation is not None:
        write_corpus(folder / "validation", read_pairs(*data.validation), vocabulary)
    receipt.write(folder)
    return folder


def _check_text(pair: PathPair | None) -> None:
    """Read a pair of files through, so that their faults are found before hours of work."""
    if pair is not None and not sum(1 for left, right in read_pairs(*pair) if left and right):
        raise TextError(f"{pair[0]} and {pair[1]} hold no pair of lines with text on both sides")


def _digests(pair: PathPair) -> PathPair:
    return _digest(pair[0]), _digest(pair[1])


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
