"""What is done to text before a vocabulary cuts it, and undone after: one pipeline a side."""

import dataclasses
import functools
import json
import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer_jax.config.checks import (
    ConfigError,
    changed_fields,
    check_tag,
    check_types,
    from_json_value,
)
from transformer_jax.config.languages import check_language, short_code
from transformer_jax.data.vocabulary_protocol import UNK_ID, Vocabulary, VocabularyError
from transformer_jax.errors import UserError

__all__ = ["PipelineVocabulary", "TextPipeline"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class TextPipeline:
    """Normalisation, splitting into words, and a tag, in this order.

    Attributes:
        normalization: none; nfc or nfkc of Unicode; or Moses' normalisation of punctuation, as
            sacremoses has it.
        word_splitting: none, or Moses' tokenizer; what is decoded is joined by its detokenizer.
        language: The language, on which what is Moses' depends; None without it.
        tag: What every text begins with, as the name of a target language; None is nothing.
        sacremoses: Version of sacremoses that text was prepared with; None without it. Another one
            may do otherwise, and is warned of.

    >>> TextPipeline("moses", "moses", "en", "<2de>").apply("It\u2019s 5 %, (fine).")
    "<2de> It 's 5 % , ( fine ) ."
    """

    normalization: Literal["none", "nfc", "nfkc", "moses"] = "none"
    word_splitting: Literal["none", "moses"] = "none"
    language: str | None = None
    tag: str | None = None
    sacremoses: str | None = None

    def __post_init__(self):
        check_types(self)
        check_tag("tag", self.tag)
        if self.language is not None:
            check_language(self.language)
        elif "moses" in (self.normalization, self.word_splitting):
            raise ConfigError("text as Moses has it depends on the language: give --direction")

    def __repr__(self) -> str:
        """Name what is not at its default: prepared text is known by it."""
        return f"TextPipeline({changed_fields(self)})"

    @classmethod
    def of(
        cls, normalization: Any, word_splitting: Any, language: str | None, tag: str | None = None
    ) -> "TextPipeline":
        """Make a pipeline for new text: what is Moses' is that of the sacremoses installed.

        Args:
            normalization: As the attribute.
            word_splitting: As the attribute.
            language: The language, where it is known.
            tag: As the attribute.
        """
        if "moses" not in (normalization, word_splitting):
            return cls(normalization, word_splitting, tag=tag)
        return cls(normalization, word_splitting, language, tag, version("sacremoses"))

    @property
    def _moses(self) -> "_Moses":
        return _moses(self.language, self.sacremoses)

    def apply(self, text: str, code: str = "") -> str:
        """Prepare a text for the vocabulary; an empty one stays empty.

        Args:
            text: The text.
            code: A tag of its own, which stands in place of `tag`.
        """
        if self.normalization == "moses":
            text = self._moses.normalize(text)
        elif self.normalization != "none":
            form: Any = self.normalization.upper()
            text = unicodedata.normalize(form, text)
        if self.word_splitting == "moses":
            text = " ".join(self._moses.tokenize(text))
        tag = code or self.tag
        return f"{tag} {text}".rstrip() if tag and (text or code) else text

    def restore(self, text: str) -> str:
        """Join the words of a text that was decoded."""
        if self.word_splitting == "none":
            return text
        return self._moses.detokenize(text.split())


class _Moses(NamedTuple):
    normalize: Callable[[str], str]
    tokenize: Callable[[str], list[str]]
    detokenize: Callable[[list[str]], str]


@functools.cache
def _moses(language: str, expected: str | None) -> _Moses:
    """What sacremoses does with the text of a language; one that it does not know is as English."""
    from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer

    if expected not in (None, installed := version("sacremoses")):
        log.warning(
            "text was prepared by sacremoses %s, and %s is installed, which may cut it otherwise",
            expected, installed,
        )  # fmt: skip
    code = short_code(language)
    tokenizer, detokenizer = MosesTokenizer(code), MosesDetokenizer(code)
    return _Moses(
        MosesPunctNormalizer(code).normalize,
        functools.partial(tokenizer.tokenize, escape=False),
        functools.partial(detokenizer.detokenize, unescape=False),
    )


class PipelineVocabulary(Vocabulary):
    """A vocabulary with a pipeline before it; both are written together.

    A text that begins with the tag, or with a language code that the vocabulary has, is left with
    that.
    """

    FILE = "text_pipeline.json"

    def __init__(self, pipeline: TextPipeline, inner: Vocabulary):
        """Make a vocabulary.

        Args:
            pipeline: What is done to text.
            inner: What cuts it.
        """
        self.pipeline, self.inner = pipeline, inner
        self.pieces = inner.pieces
        self.is_tokenized = inner.is_tokenized and pipeline.word_splitting == "none"

    def _apply(self, text: str) -> str:
        code, rest = self.split_language_code(text)
        return self.pipeline.apply(rest.removeprefix(" ") if code else rest, code)

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(self._apply(text))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self.inner.encode_all([self._apply(text) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        return self.pipeline.restore(self.inner.decode(ids))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return self.inner.tokens(ids)

    def split_language_code(self, text: str) -> tuple[str, str]:
        tag = self.pipeline.tag
        if tag and (text == tag or text.startswith(f"{tag} ")):
            return tag, text[len(tag) :]
        code, rest = self.inner.split_language_code(text)
        known = code and UNK_ID not in self.inner.encode(code)
        return (code, rest) if known else ("", text)

    def __len__(self) -> int:
        return len(self.inner)

    def to_bytes(self) -> bytes:
        return self.inner.to_bytes() + b"\0" + self._steps()

    def _steps(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self.pipeline), indent=2) + "\n").encode()

    def save(self, folder: Path) -> None:
        self.inner.save(folder)
        (folder / self.FILE).write_bytes(self._steps())

    @classmethod
    def load(cls, folder: Path, inner: Vocabulary) -> "PipelineVocabulary":
        """Read what `save` wrote beside the vocabulary itself.

        Raises:
            VocabularyError: The file is damaged.
        """
        path = folder / cls.FILE
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            return cls(from_json_value(TextPipeline, tree, ""), inner)
        except (ValueError, RecursionError, UserError) as error:
            raise VocabularyError(f"{path} is damaged: {error}") from None
