"""A parallel corpus tokenised once into memory-mapped arrays; training reads only these.

Folder: source.tokens.npy, source.ends.npy, the same for target, corpus.json and the vocabularies.
Sentence i of a side is tokens[ends[i - 1] : ends[i]], EOS included where its task has one.
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
from transformer_jax.data.text import is_blank
from transformer_jax.data.vocabulary import (
    PAD_ID,
    Vocabularies,
    Vocabulary,
    load_vocabularies,
    save_vocabularies,
)
from transformer_jax.errors import UserError
from transformer_jax.files import replaced_folder, write_atomically

__all__ = ["Corpus", "CorpusError", "Lines", "Side", "note_direction", "write_corpus"]

FORMAT = 2


class CorpusError(UserError):
    """A prepared corpus that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Side:
    """One language of a corpus, memory-mapped: token ids of all sentences, and where each ends."""

    tokens: np.ndarray
    ends: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sentence, EOS included, int64."""
        return np.diff(self.ends, prepend=0)

    def rows(self, indices: np.ndarray, length: int, fill: int = PAD_ID) -> np.ndarray:
        """Sentences as an int32 array [len(indices), length], `fill` after their end; index -1 is
        empty."""
        there = np.maximum(indices, 0)
        ends = np.where(indices < 0, 0, self.ends[there])
        starts = np.where(indices <= 0, 0, self.ends[there - 1])
        positions = starts[:, None] + np.arange(length)
        inside = positions < ends[:, None]
        rows = np.full(inside.shape, fill, np.int32)
        rows[inside] = self.tokens[positions[inside]]
        return rows


@dataclass(frozen=True)
class Lines:
    """What the source lines of a corpus are like, and with them those that a model can translate.

    sentences  in a line, the 99th percentile; None where nobody counted
    tokens     of the longest, EOS included; 0 where no source is read
    """

    sentences: int | None
    tokens: int

    def __post_init__(self):
        if self.tokens < 0 or (self.sentences is not None and self.sentences < 0):
            raise ValueError(
                f"no text has lines of {self.sentences} sentences, {self.tokens} tokens"
            )

    def joined(self, other: "Lines | None") -> "Lines":
        """Of two texts: what a model trained on both can translate."""
        if other is None:
            return self
        counted = [n for n in (self.sentences, other.sentences) if n is not None]
        return Lines(max(counted, default=None), max(self.tokens, other.tokens))


@dataclass(frozen=True)
class Corpus:
    """Token arrays of both sides, their vocabularies, and what was left out when preparing.

    `sentences` and `direction` are None where the corpus was prepared before they were recorded, or
    where nobody could tell.
    """

    folder: Path
    source: Side
    target: Side
    vocabularies: Vocabularies
    fingerprint: str
    left_out: dict[str, int]
    sentences: int | None = None
    direction: str | None = None

    @property
    def lines(self) -> Lines:
        """Of the source."""
        return Lines(self.sentences, int(self.source.lengths.max()))

    def __len__(self) -> int:
        return len(self.source.ends)

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Map a prepared folder; nothing is read into memory."""
        path = folder / "corpus.json"
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            if (found := meta["format"]) != FORMAT:
                raise CorpusError(
                    f"{folder} has corpus format {found!r}, this version reads {FORMAT}: "
                    "prepare it again"
                )
            fingerprint, left_out = str(meta["fingerprint"]), dict(meta["left_out"])
            sentences, direction = meta.get("sentences"), meta.get("direction")
            if not (isinstance(sentences, int | None) and isinstance(direction, str | None)):
                raise ValueError(f"sentences {sentences!r}, direction {direction!r}")
        except FileNotFoundError:
            raise CorpusError(
                f"{folder} holds no prepared corpus: run `transformer-jax prepare` first"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorpusError(f"{path} is damaged ({error}): prepare it again") from None
        sides = []
        for name in _SIDES:
            try:
                parts = [np.load(folder / f"{name}.{p}.npy", mmap_mode="r") for p in _PARTS]
            except (OSError, ValueError) as error:
                raise CorpusError(f"{folder} is damaged: {error}; prepare it again") from None
            sides.append(Side(*parts))
        source, target = sides
        both = load_vocabularies(folder)
        return cls(folder, source, target, both, fingerprint, left_out, sentences, direction)

    def verify(self) -> None:
        """Read the arrays through once; raise CorpusError where they are not those written."""
        if _fingerprint((self.source, self.target), self.vocabularies) != self.fingerprint:
            raise CorpusError(
                f"{self.folder} is damaged: its arrays or its vocabularies are not those that were "
                "written; remove the folder and prepare it again"
            )


# Pairs tokenised in one call: SentencePiece takes half the time that it needs one by one.
CHUNK = 4096
_SIDES = ("source", "target")
_PARTS = ("tokens", "ends")


def write_corpus(
    folder: Path,
    pairs: Iterable[tuple[str, str]],
    vocabularies: Vocabularies | Vocabulary,
    max_length: int | None = None,
    *,
    pairing: Pairing = Pairing(),
    sentences: int | None = None,
    direction: str | None = None,
) -> Corpus:
    """Tokenise line pairs into `folder`, which appears whole or not at all.

    Pairs with an empty side that is read, or with more than `max_length` tokens a side (EOS
    included), are left out and counted; a side that shows nothing is empty. Without `max_length`
    every pair is kept, empty ones too. A single vocabulary is that of both sides; `pairing` is the
    task's, and CorpusError names a pair that is not aligned where it says so. The fingerprint is a
    SHA-256 of the arrays and the vocabularies; `sentences` and `direction` are written down beside
    it.
    """
    if not isinstance(vocabularies, Vocabularies):
        vocabularies = Vocabularies(vocabularies, vocabularies)
    dtype = np.dtype(np.uint16 if max(map(len, vocabularies)) <= 2**16 else np.uint32)
    with replaced_folder(folder) as partial:
        left_out = {"empty": 0, "too_long": 0}
        ends = (array("q"), array("q"))
        raw = [partial / f"{name}.raw" for name in _SIDES]
        with raw[0].open("wb") as source_file, raw[1].open("wb") as target_file:
            for number, (words, encoded) in enumerate(_encoded(pairs, vocabularies, pairing), 1):
                if max_length is not None:
                    if not all(words if pairing.reads_source else words[1:]):
                        left_out["empty"] += 1
                        continue
                    if max(map(len, encoded)) > max_length:
                        left_out["too_long"] += 1
                        continue
                if pairing.aligned and len(words[0]) != len(words[1]):
                    raise CorpusError(
                        f"{pairs}, pair {number}: {len(words[0])} source tokens but "
                        f"{len(words[1])} target tokens; the task needs a target token for each: "
                        "mend that line, or choose the vocabulary whitespace"
                    )
                for ids, file, side_ends in zip(encoded, (source_file, target_file), ends):
                    file.write(np.asarray(ids, dtype).tobytes())
                    side_ends.append((side_ends[-1] if side_ends else 0) + len(ids))
        if not ends[0]:
            raise CorpusError(
                f"no sentence pair is left: {left_out['empty']} have an empty side, "
                f"{left_out['too_long']} exceed max_length {max_length}"
            )
        sides = []
        for name, path, side_ends in zip(_SIDES, raw, ends):
            tokens = np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
            side = Side(tokens, np.asarray(side_ends, np.int64))
            for part in _PARTS:
                np.save(partial / f"{name}.{part}.npy", getattr(side, part))
            path.unlink()
            sides.append(side)
        save_vocabularies(vocabularies, partial)
        fingerprint = _fingerprint(sides, vocabularies)
        meta = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "left_out": left_out,
            "sentences": sentences,
            "direction": direction,
        }
        (partial / "corpus.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return Corpus.open(folder)


def note_direction(folder: Path, direction: str) -> None:
    """Write down the languages of a corpus that was prepared before they were told."""
    meta = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    if meta.get("direction") != direction:
        meta["direction"] = direction
        # A new file: the old one may be linked to from elsewhere.
        write_atomically(folder / "corpus.json", json.dumps(meta, indent=2) + "\n")


def _encoded(
    pairs: Iterable[tuple[str, str]], vocabularies: Vocabularies, pairing: Pairing
) -> Iterator[tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]]:
    """(token ids, rows) of each pair, many pairs at a time."""
    pairs = iter(pairs)
    while chunk := list(itertools.islice(pairs, CHUNK)):
        sides = (["" if is_blank(line) else line for line in side] for side in zip(*chunk))
        encoded = (v.encode_all(side) for v, side in zip(vocabularies, sides))
        for source, target in zip(*encoded):
            yield (source, target), (pairing.source(source), pairing.target(target))


def _fingerprint(sides: Iterable[Side], vocabularies: Vocabularies) -> str:
    digest = hashlib.sha256(vocabularies.source.to_bytes())
    if not vocabularies.joint:
        digest.update(vocabularies.target.to_bytes())
    for name, side in zip(_SIDES, sides):
        for part in _PARTS:
            values = getattr(side, part)
            digest.update(str((name, part, values.dtype.str, values.shape)).encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
