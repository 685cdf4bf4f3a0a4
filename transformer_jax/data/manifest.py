"""What prepared text is made of: written beside it, and the name of its folder in the cache."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.config import ConfigError, DataConfig
from transformer_jax.config.checks import changed_fields, from_json_value
from transformer_jax.data.mixture import Mixture
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.text import ParallelText, digest
from transformer_jax.data.text_pipeline import TextPipeline
from transformer_jax.data.tree_files import digest_trees, has_trees
from transformer_jax.data.vocabulary import Vocabularies

__all__ = ["Manifest", "Texts"]

Texts = tuple[ParallelText, ParallelText | None]  # of training and validation


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder was made of: the identity of each text, and the settings."""

    train: str
    validation: str | None
    vocabulary: str
    vocab_size: int
    """As asked for; the vocabulary may be smaller."""
    max_length: int
    reused_vocabulary: str | None
    """SHA-256 of a vocabulary that was given, not trained."""
    target_vocab_size: int | None = None
    """Of a target with a vocabulary of its own, as asked for."""
    pairing: Pairing = Pairing()
    """As the task says."""
    mixed: str | None = None
    """Identity of the text that was mixed into the training text, and the ratio."""
    pipelines: tuple[TextPipeline, TextPipeline] = (TextPipeline(), TextPipeline())
    """Of source and target; those of a vocabulary that was given are part of it."""

    FILE = "inputs.json"

    @classmethod
    def of(
        cls,
        texts: Texts,
        data: DataConfig,
        vocab_size: int,
        given: Vocabularies | None,
        target_vocab_size: int | None,
        pairing: Pairing,
    ) -> "Manifest":
        """Describe what is to be prepared.

        Args:
            texts: Training and validation text.
            data: The settings.
            vocab_size: As asked for.
            given: Vocabularies that are used as they are.
            target_vocab_size: As asked for.
            pairing: The task's.
        """
        train, validation = texts
        mixed = None
        if isinstance(train, Mixture):
            mixed = train.mixed_identity
            train = train.text
        taken = b"".join(each.to_bytes() for each in given.distinct) if given else b""
        return cls(
            train.identity,
            None if validation is None else validation.identity,
            data.vocabulary,
            vocab_size,
            data.max_length,
            hashlib.sha256(taken).hexdigest() if given else None,
            None if pairing.joint else target_vocab_size or vocab_size,
            pairing,
            mixed,
            cls.pipelines if given else _pipelines(data),
        )

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Read the manifest of a folder; None where there is none or it is damaged."""
        try:
            return from_json_value(
                cls, json.loads((folder / cls.FILE).read_text(encoding="utf-8")), ""
            )
        except (OSError, ValueError, RecursionError, ConfigError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        (folder / self.FILE).write_text(text, encoding="utf-8")

    @property
    def name(self) -> str:
        """A name for what is prepared, made of all that is not at its default; equal for equal
        text."""
        # With the name that this class had first: what is in caches keeps its place.
        return hashlib.sha256(f"Receipt({changed_fields(self)})".encode()).hexdigest()[:16]

    def changed_file(self, data: DataConfig) -> str | None:
        """Return a text file of `data` that exists but is not the one that was prepared."""
        for paths, prepared in (
            (data.train, self.train),
            (data.validation, self.validation),
            (data.mixed_text, self.mixed),
        ):
            for path, old in zip(paths or (), (prepared or "").split()):
                if Path(path).is_file() and digest(path) != old:
                    return path
        known = [text.split()[0] for text in (self.train, self.validation, self.mixed) if text]
        for path in data.treebanks:
            if has_trees(path) and digest_trees(path) not in known:
                return path
        return None

    def added_text(self, data: DataConfig) -> str | None:
        """Return a text option of `data` for which nothing was prepared."""
        prepared = {
            "validation": self.validation, "mixed_text": self.mixed, "mixed_treebank": self.mixed
        }  # fmt: skip
        added = (n for n, text in prepared.items() if text is None and getattr(data, n))
        return next(added, None)


def _pipelines(data: DataConfig) -> tuple[TextPipeline, TextPipeline]:
    """What is done to the text of source and target."""
    steps = data.text_normalization, data.word_splitting
    of_source, of_target = data.languages
    return (
        TextPipeline.of(*steps, of_source, data.source_tag),
        TextPipeline.of(*steps, of_target),
    )
