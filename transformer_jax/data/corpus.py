"""A parallel corpus tokenised once into memory-mapped arrays; training reads only these.

Folder: source.tokens.npy, source.sentence_ends.npy, the same for target, corpus.json and the
vocabularies. Sentence i of a side is tokens[ends[i - 1] : ends[i]], EOS included where its task has
one.
"""

import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transformer_jax.data.pairing import Pairing
from transformer_jax.data.text import empty_blanks
from transformer_jax.data.vocabulary import (
    PAD_ID,
    Vocabularies,
    Vocabulary,
    load_vocabularies,
    save_vocabularies,
)
from transformer_jax.errors import UserError
from transformer_jax.files import replaced_folder, write_atomically

__all__ = [
    "Corpus",
    "CorpusError",
    "LineStatistics",
    "TokenArray",
    "note_direction",
    "write_corpus",
]

FORMAT = 3
# Names of format 2, which is still read, in corpus.json and of files.
_OLD_NAMES = {"left_out": "filtered_pairs", "sentences": "sentences_per_line"}
_OLD_FILES = {"sentence_ends": "ends"}


class CorpusError(UserError):
    """A prepared corpus that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class TokenArray:
    """One side of a corpus, memory-mapped: token ids of all sentences, and where each ends."""

    tokens: np.ndarray
    ends: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sentence, EOS included, int64."""
        return np.diff(self.ends, prepend=0)

    def rows(self, indices: np.ndarray, length: int, fill: int = PAD_ID) -> np.ndarray:
        """Gather sentences as rows of one length.

        Args:
            indices: Indices of the sentences; -1 is an empty row.
            length: Tokens of a row.
            fill: What follows the end of a sentence.

        Returns:
            int32 [len(indices), length].
        """
        there = np.maximum(indices, 0)
        ends = np.where(indices < 0, 0, self.ends[there])
        starts = np.where(indices <= 0, 0, self.ends[there - 1])
        positions = starts[:, None] + np.arange(length)
        inside = positions < ends[:, None]
        rows = np.full(inside.shape, fill, np.int32)
        rows[inside] = self.tokens[positions[inside]]
        return rows


@dataclass(frozen=True)
class LineStatistics:
    """What the source lines of a corpus are like, and with them those that a model can translate.

    Attributes:
        sentences_per_line: The 99th percentile; None where nobody counted.
        max_tokens: Tokens of the longest, EOS included; 0 where no source is read.
    """

    sentences_per_line: int | None
    max_tokens: int

    def __post_init__(self):
        count = self.sentences_per_line
        if self.max_tokens < 0 or (count is not None and count < 0):
            raise ValueError(f"no text has lines of {count} sentences, {self.max_tokens} tokens")

    def merged(self, other: "LineStatistics | None") -> "LineStatistics":
        """Combine two texts: what a model trained on both can translate."""
        if other is None:
            return self
        both = (self, other)
        counted = [each.sentences_per_line for each in both if each.sentences_per_line is not None]
        return LineStatistics(max(counted, default=None), max(each.max_tokens for each in both))


@dataclass(frozen=True)
class Corpus:
    """Token arrays of both sides, their vocabularies, and what was filtered out when preparing.

    `sentences_per_line` and `direction` are None where the corpus was prepared before they were
    recorded, or where they could not be known.
    """

    folder: Path
    source: TokenArray
    target: TokenArray
    vocabularies: Vocabularies
    fingerprint: str
    filtered_pairs: dict[str, int]
    sentences_per_line: int | None = None
    direction: str | None = None

    @property
    def lines(self) -> LineStatistics:
        """What the source lines are like."""
        return LineStatistics(self.sentences_per_line, int(self.source.lengths.max()))

    def __len__(self) -> int:
        return len(self.source.ends)

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Map a prepared folder; nothing is read into memory.

        Raises:
            CorpusError: It holds no prepared corpus of a format that this version reads.
        """
        path = folder / "corpus.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            if (found := meta["format"]) not in (2, FORMAT):
                raise CorpusError(
                    f"{folder} has corpus format {found!r}, this version reads 2 and {FORMAT}: "
                    "prepare it again"
                )
            if found == 2:
                meta = {_OLD_NAMES.get(name, name): value for name, value in meta.items()}
            fingerprint, filtered_pairs = str(meta["fingerprint"]), dict(meta["filtered_pairs"])
            count, direction = meta.get("sentences_per_line"), meta.get("direction")
            if not (isinstance(count, int | None) and isinstance(direction, str | None)):
                raise ValueError(f"sentences_per_line {count!r}, direction {direction!r}")
        except FileNotFoundError:
            raise CorpusError(
                f"{folder} holds no prepared corpus: run `transformer-jax prepare` first"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorpusError(f"{path} is damaged ({error}): prepare it again") from None
        sides = []
        for name in _SIDES:
            try:
                files = [_OLD_FILES.get(f, f) if found == 2 else f for f in _PARTS.values()]
                parts = [np.load(folder / f"{name}.{file}.npy", mmap_mode="r") for file in files]
            except (OSError, ValueError) as error:
                raise CorpusError(f"{folder} is damaged: {error}; prepare it again") from None
            sides.append(TokenArray(*parts))
        source, target = sides
        both = load_vocabularies(folder)
        return cls(folder, source, target, both, fingerprint, filtered_pairs, count, direction)

    def verify(self) -> None:
        """Read the arrays once and compare their fingerprint.

        Raises:
            CorpusError: They are not those that were written.
        """
        if _fingerprint((self.source, self.target), self.vocabularies) != self.fingerprint:
            raise CorpusError(
                f"{self.folder} is damaged: its arrays or its vocabularies are not those that were "
                "written; remove the folder and prepare it again"
            )


# Pairs tokenised in one call: SentencePiece takes half the time that it needs one by one.
CHUNK = 4096
_SIDES = ("source", "target")
# Array of a side -> its file.
_PARTS = {"tokens": "tokens", "ends": "sentence_ends"}


def write_corpus(
    folder: Path,
    pairs: Iterable[tuple[str, str]],
    vocabularies: Vocabularies | Vocabulary,
    max_length: int | None = None,
    *,
    pairing: Pairing = Pairing(),
    sentences_per_line: int | None = None,
    direction: str | None = None,
) -> Corpus:
    """Tokenise line pairs into `folder`, which appears whole or not at all.

    Pairs with an empty side that is read, or with more than `max_length` tokens on a side (EOS
    included), are filtered out and counted; a side that shows nothing is empty. The fingerprint is
    a SHA-256 of the arrays and the vocabularies.

    Args:
        folder: Folder to write.
        pairs: Lines of source and target.
        vocabularies: Those of both sides; a single one is that of both.
        max_length: Most tokens of a side; None keeps every pair, empty ones too.
        pairing: How the task turns a pair into rows.
        sentences_per_line: Recorded beside the arrays.
        direction: Languages, recorded beside the arrays.

    Returns:
        The corpus.

    Raises:
        CorpusError: No pair is left, or one is not aligned where the task needs it.
    """
    if not isinstance(vocabularies, Vocabularies):
        vocabularies = Vocabularies(vocabularies, vocabularies)
    dtype = np.dtype(np.uint16 if max(map(len, vocabularies)) <= 2**16 else np.uint32)
    with replaced_folder(folder) as partial:
        filtered_pairs = {"empty": 0, "too_long": 0}
        ends = (array("q"), array("q"))
        raw = [partial / f"{name}.raw" for name in _SIDES]
        with raw[0].open("wb") as source_file, raw[1].open("wb") as target_file:
            for number, (words, encoded) in enumerate(_encoded(pairs, vocabularies, pairing), 1):
                if max_length is not None:
                    if not all(words if pairing.reads_source else words[1:]):
                        filtered_pairs["empty"] += 1
                        continue
                    if max(map(len, encoded)) > max_length:
                        filtered_pairs["too_long"] += 1
                        continue
                if pairing.aligned and len(words[0]) != len(words[1]):
                    raise CorpusError(
                        f"{pairs}, pair {number}: {len(words[0])} source tokens but "
                        f"{len(words[1])} target tokens; the task needs a target token for each: "
                        "correct that line, or choose the vocabulary whitespace"
                    )
                for ids, file, side_ends in zip(encoded, (source_file, target_file), ends):
                    file.write(np.asarray(ids, dtype).tobytes())
                    side_ends.append((side_ends[-1] if side_ends else 0) + len(ids))
        if not ends[0]:
            raise CorpusError(
                f"{pairs}: no sentence pair is left: {filtered_pairs['empty']} have an empty side, "
                f"{filtered_pairs['too_long']} exceed max_length {max_length}: give other text, or "
                "raise max_length"
            )
        sides = []
        for name, path, side_ends in zip(_SIDES, raw, ends):
            tokens = np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
            side = TokenArray(tokens, np.asarray(side_ends, np.int64))
            for part, file_name in _PARTS.items():
                np.save(partial / f"{name}.{file_name}.npy", getattr(side, part))
            path.unlink()
            sides.append(side)
        save_vocabularies(vocabularies, partial)
        fingerprint = _fingerprint(sides, vocabularies)
        meta = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "filtered_pairs": filtered_pairs,
            "sentences_per_line": sentences_per_line,
            "direction": direction,
        }
        (partial / "corpus.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return Corpus.open(folder)


def note_direction(folder: Path, direction: str) -> None:
    """Record the languages of a corpus that was prepared before they were known."""
    meta = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    if meta.get("direction") != direction:
        meta["direction"] = direction
        # A new file: the old one may be linked to from elsewhere.
        write_atomically(folder / "corpus.json", json.dumps(meta, indent=2) + "\n")


def _encoded(
    pairs: Iterable[tuple[str, str]], vocabularies: Vocabularies, pairing: Pairing
) -> Iterator[tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]]:
    """Yield (token ids, rows) of each pair, encoding many pairs at a time."""
    pairs = iter(pairs)
    while chunk := list(itertools.islice(pairs, CHUNK)):
        sides = (empty_blanks(side) for side in zip(*chunk))
        encoded = (v.encode_all(side) for v, side in zip(vocabularies, sides))
        for source, target in zip(*encoded):
            yield (source, target), (pairing.source(source), pairing.target(target))


def _fingerprint(sides: Iterable[TokenArray], vocabularies: Vocabularies) -> str:
    digest = hashlib.sha256(b"".join(each.to_bytes() for each in vocabularies.distinct))
    for name, side in zip(_SIDES, sides):
        for part in _PARTS:
            values = getattr(side, part)
            digest.update(str((name, part, values.dtype.str, values.shape)).encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
