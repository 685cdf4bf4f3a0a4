"""What is done to text before a vocabulary cuts it, and undone after: one pipeline a side."""

import dataclasses
import functools
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer_jax.config.checks import ConfigError, check_tag, check_types, from_json_value
from transformer_jax.config.languages import short_code
from transformer_jax.data.vocabulary_protocol import Vocabulary, VocabularyError
from transformer_jax.errors import UserError

__all__ = ["PipelineVocabulary", "TextPipeline"]


@dataclass(frozen=True)
class TextPipeline:
    """Normalisation, splitting into words, and a tag, in this order.

    Attributes:
        normalization: none; nfc or nfkc of Unicode; or Moses' normalisation of punctuation, as
            sacremoses has it.
        word_splitting: none, or Moses' tokenizer; what is decoded is joined by its detokenizer.
        language: The language, on which what is Moses' depends; None without it.
        tag: What every text begins with, as the name of a target language; None is nothing.

    >>> TextPipeline("moses", "moses", "en", "<2de>").apply("It\u2019s \u201cfine\u201d.")
    "<2de> It 's \\" fine \\" ."
    """

    normalization: Literal["none", "nfc", "nfkc", "moses"] = "none"
    word_splitting: Literal["none", "moses"] = "none"
    language: str | None = None
    tag: str | None = None

    def __post_init__(self):
        check_types(self)
        check_tag("tag", self.tag)
        if "moses" in (self.normalization, self.word_splitting) and self.language is None:
            raise ConfigError("text as Moses has it depends on the language: give --direction")

    def apply(self, text: str, code: str = "") -> str:
        """Prepare a text for the vocabulary; an empty one stays empty.

        Args:
            text: The text.
            code: A tag of its own, which stands in place of `tag`.
        """
        if self.normalization == "moses":
            text = _moses(self.language).normalize(text)
        elif self.normalization != "none":
            form: Any = self.normalization.upper()
            text = unicodedata.normalize(form, text)
        if self.word_splitting == "moses":
            text = " ".join(_moses(self.language).tokenize(text))
        tag = code or self.tag
        return f"{tag} {text}".rstrip() if tag and (text or code) else text

    def restore(self, text: str) -> str:
        """Join the words of a text that was decoded."""
        if self.word_splitting == "none":
            return text
        return _moses(self.language).detokenize(text.split())


class _Moses(NamedTuple):
    normalize: Callable[[str], str]
    tokenize: Callable[[str], list[str]]
    detokenize: Callable[[list[str]], str]


@functools.cache
def _moses(language: str) -> _Moses:
    """What sacremoses does with the text of a language; one that it does not know is as English."""
    from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer

    code = short_code(language)
    tokenizer, detokenizer = MosesTokenizer(code), MosesDetokenizer(code)
    return _Moses(
        MosesPunctNormalizer(code).normalize,
        functools.partial(tokenizer.tokenize, escape=False),
        functools.partial(detokenizer.detokenize, unescape=False),
    )


class PipelineVocabulary(Vocabulary):
    """A vocabulary with a pipeline before it; both are written together.

    A text that begins with a language code of the vocabulary keeps it in place of the tag.
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

    def _apply(self, text: str) -> str:
        code, rest = self.inner.split_language_code(text)
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
        return self.inner.split_language_code(text)

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
