"""How a task turns a pair of lines into a pair of rows of token ids."""

from dataclasses import dataclass
from typing import Literal

from transformer_jax.data.vocabulary import EOS_ID, PAD_ID

__all__ = ["Pairing"]


@dataclass(frozen=True)
class Pairing:
    """How a task turns a pair of lines into rows; the defaults are those of translation."""

    joint: bool = True
    """One vocabulary, learned from both sides, or one a side."""
    source_ends: bool = True
    """Whether EOS follows the source."""
    target_ends: bool = True
    """Whether EOS follows the target."""
    reads_source: bool = True
    """False makes every source empty, whatever the text holds, as of a language model."""
    aligned: bool = False
    """Whether a target has a token for each token of its source; its model reads no target."""
    target_vocabulary: Literal["bpe", "unigram", "whitespace"] | None = None
    """Kind of the target's own vocabulary; None is that of `DataConfig.vocabulary`."""
    form: str | None = None
    """Name of the form that the target is written in, where a task knows several."""
    ignored: int = PAD_ID
    """What stands in the target where nothing counts; a class of its own number may be 0."""

    def __post_init__(self):
        if self.aligned and (self.source_ends != self.target_ends or not self.reads_source):
            raise ValueError("sides are aligned only where both are read and end alike")
        if self.joint and self.target_vocabulary is not None:
            raise ValueError("one vocabulary for both sides has no other kind for the target")

    def source(self, ids: list[int]) -> list[int]:
        """Make the row of a source, without padding.

        >>> Pairing().source([7]), Pairing(source_ends=False).source([7])
        ([7, 1], [7])
        """
        if not self.reads_source:
            return []
        return [*ids, EOS_ID] if self.source_ends else ids

    def target(self, ids: list[int]) -> list[int]:
        """Make the row of a target, without padding."""
        return [*ids, EOS_ID] if self.target_ends else ids
