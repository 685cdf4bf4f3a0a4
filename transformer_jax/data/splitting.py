"""Splitting of lines into what a model can translate: whole, by sentences, or in pieces."""

import logging
from collections.abc import Sequence
from typing import Literal, get_args

from transformer_jax.data.corpus import LineStatistics
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.segmentation import join_pieces, split_long_line, split_sentences
from transformer_jax.data.text import is_blank
from transformer_jax.data.vocabulary import Vocabulary
from transformer_jax.errors import UserError

__all__ = ["LineSplitter", "Splitting", "check_splitting"]

Splitting = Literal["auto", "always", "never"]
log = logging.getLogger(__name__)


def check_splitting(how: str) -> None:
    """Raise UserError for what is no way of splitting lines."""
    if how not in get_args(Splitting):
        raise UserError(f"split_sentences {how!r} is not one of {', '.join(get_args(Splitting))}")


class LineSplitter:
    """Splits lines as `Translator.translations` says, and joins the translations of their parts."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_length: int,
        lines: LineStatistics | None,
        languages: tuple[str, str] | tuple[None, None],
        pairing: Pairing,
    ):
        """Keep what decides how lines are split.

        Args:
            vocabulary: That of the source.
            max_length: Most tokens of a sentence, EOS included, in training.
            lines: What the training text's lines are like, where that is known.
            languages: Those of source and target, where they are known.
            pairing: How the task turns a pair into rows.
        """
        self._vocabulary, self._max_length = vocabulary, max_length
        self._ends = pairing.source_ends
        self._lines, self._languages = lines, languages
        self._told = False

    def encode(self, line: str, number: int, how: Splitting) -> list[list[int]]:
        """Encode a line, or its parts.

        Args:
            line: The line.
            number: Number of the line, from 0, for messages.
            how: auto, always or never.

        Returns:
            Token ids of each part.
        """
        if is_blank(line):
            return []
        # A language code speaks for the whole line, so each part begins with it.
        code, text = self._vocabulary.split_language_code(line)

        def encode(part: str) -> list[int]:
            return self._vocabulary.encode(code + part)

        longest = self._max_length
        if self._lines is not None and how != "never":
            longest = min(self._lines.max_tokens, longest)
        longest -= self._ends
        whole = encode(text)
        parts = self._split(text, number, how)
        found: list[list[int]] = []
        for part in parts:
            ids = encode(part) if len(parts) > 1 else whole
            if len(ids) <= longest:
                found.append(ids)
                continue
            pieces = split_long_line(part, lambda text: len(encode(text)) <= longest)
            log.warning(
                "line %d has %d tokens%s, the model was trained on at most %d: translated in %d "
                "pieces", number + 1, len(ids), " in a sentence" if len(parts) > 1 else "",
                longest, len(pieces),
            )  # fmt: skip
            found += [ids for piece in pieces if (ids := encode(piece))]
        return found

    def _split(self, line: str, number: int, how: Splitting) -> list[str]:
        """Return the sentences of a line where it is to be split into them, else the line."""
        usual = self._lines.sentences_per_line if self._lines is not None else None
        if how == "never" or (how == "auto" and usual is None):
            return [line]
        try:
            found = split_sentences(line, self._languages[0])
        except ImportError:
            if how == "always":
                raise UserError(
                    "lines are split by sentencex, which is not installed here: install it, or "
                    "leave --split-sentences always out"
                ) from None
            self._tell("sentencex is not installed: lines of several sentences are not split")
            return [line]
        if len(found) <= (usual if usual is not None and how == "auto" else 1):
            return [line]
        self._tell(
            f"line {number + 1} holds {len(found)} sentences; such lines are translated "
            "sentence by sentence (--split-sentences never translates them whole)"
        )
        return found

    def _tell(self, message: str) -> None:
        """Once for all lines."""
        if not self._told:
            log.warning("%s", message)
        self._told = True

    def join(self, parts: Sequence[str]) -> str:
        """The translations of a line's parts as that of the line."""
        if self._vocabulary.is_tokenized:
            return " ".join(parts)
        return join_pieces(parts, self._languages[1])
