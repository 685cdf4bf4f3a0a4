"""The configuration of the text and its batches."""

from dataclasses import dataclass
from typing import Literal

from transformer_jax.config.checks import check_positive, check_tag, check_types, require
from transformer_jax.config.languages import is_direction, languages_of

__all__ = ["DataConfig"]

PathPair = tuple[str, str]


@dataclass(frozen=True)
class DataConfig:
    """Which text, which tokens and which batches (section 5.1)."""

    task: str = "translation"
    """Name of the task: translation, or one registered with `tasks`."""
    train: PathPair | None = None
    """Source file and target file, UTF-8, one sentence per line."""
    validation: PathPair | None = None
    """Source file and target file to evaluate on while training."""
    mixed_text: PathPair | None = None
    """Source file and target file of other text, mixed into the training text: with the text of
    --init-from a model that is fine-tuned forgets less of it."""
    mixed_ratio: float = 1.0
    """Pairs of mixed_text for each pair of the training text."""
    treebank: PathPair | None = None
    """Trees in Penn Treebank brackets to train on and to evaluate on, for the task parsing: a file,
    a folder of files .mrg, or sections of one, as wsj/02-21."""
    mixed_treebank: str | None = None
    """Other trees, mixed into those to train on at mixed_ratio, as of a parser's own output."""
    dataset: str | None = None
    """A dataset instead of files: grammar, text, multi30k, wmt14_translate or wmt16_translate."""
    direction: str | None = None
    """Source and target language, such as en-de; None is the dataset's, or unknown for files."""
    data_dir: str | None = None
    """Files or archives to read the dataset from; None generates or downloads them."""
    corpus: str | None = None
    """Folder made by `prepare`; None prepares the text and links it into the run folder."""
    cache_dir: str | None = None
    """Folder of prepared data and compiled programs; None is $TRANSFORMER_JAX_CACHE or
    ~/.cache/transformer_jax."""
    vocabulary: Literal["bpe", "unigram", "whitespace"] = "bpe"
    """SentencePiece BPE or unigram, trained on the text; or tokens separated by spaces."""
    text_normalization: Literal["none", "nfc", "nfkc", "moses"] = "none"
    """What is done to text first: nfc or nfkc of Unicode, or Moses' normalisation of punctuation,
    which depends on the language."""
    word_splitting: Literal["none", "moses"] = "none"
    """Split text into words before the vocabulary cuts it, as Moses' tokenizer does, and join words
    of translations by its detokenizer."""
    source_tag: str | None = None
    """A word that every source begins with, as the name of the language to translate to."""
    max_length: int = 256
    """Most tokens per side, EOS included; longer pairs are left out of training and counted."""
    batch_tokens: int = 25_000
    """Tokens per side in one batch, padding included."""
    max_batch_shapes: int = 12
    """Most shapes of batches (sentences x source x target); each is compiled once."""

    def __post_init__(self):
        check_types(self)
        check_positive(self, "max_length", "batch_tokens", "max_batch_shapes", "mixed_ratio")
        require(self.mixed_ratio <= 1000, f"mixed_ratio {self.mixed_ratio:g} is more than 1000")
        check_tag("source_tag", self.source_tag)
        mixed = (self.mixed_text, self.mixed_treebank)
        texts = (self.train, self.validation, self.treebank, self.dataset, *mixed)
        require(
            self.corpus is None or not any(texts),
            f"corpus {self.corpus} is prepared text: leave train, validation, treebank, "
            "mixed_text, mixed_treebank and dataset out",
        )
        own = self.train or self.validation
        require(
            self.treebank is None or not (own or self.dataset or self.mixed_text),
            "treebank brings its own text: leave train, validation, mixed_text and dataset out",
        )
        require(
            self.dataset is None or (self.train is None and self.validation is None),
            f"dataset {self.dataset} brings its own text: leave train and validation out",
        )
        require(
            self.data_dir is None or self.dataset is not None,
            f"data_dir {self.data_dir} needs a dataset: name one, as in --dataset text",
        )
        require(
            self.max_length <= self.batch_tokens,
            f"batch_tokens {self.batch_tokens} is smaller than one sentence of max_length "
            f"{self.max_length}: raise it or lower max_length",
        )

    @property
    def names_text(self) -> bool:
        """Whether there is a text to prepare, which is not prepared already."""
        return any((self.train, self.treebank, self.dataset))

    @property
    def treebanks(self) -> tuple[str, ...]:
        """The paths of trees that are given."""
        given = (*(self.treebank or ()), self.mixed_treebank)
        return tuple(path for path in given if path is not None)

    @property
    def known_direction(self) -> str | None:
        """The direction of the text, where it is given or the dataset has its own."""
        own = self.dataset is not None and self.dataset != "text"
        return "en-de" if self.direction is None and own else self.direction

    @property
    def languages(self) -> tuple[str, str] | tuple[None, None]:
        """Languages of source and target, where they are known.

        Runs that were made before directions of files were checked may hold anything there.
        """
        known = self.known_direction
        return (None, None) if known is None or not is_direction(known) else languages_of(known)
