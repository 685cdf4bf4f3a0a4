"""Two texts in one: other text mixed into that which is trained on, at a ratio."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from transformer_jax.data.text import ParallelText, TextError

__all__ = ["Mixture", "resample"]


@dataclass(frozen=True)
class Mixture:
    """A text, and for each of its pairs `ratio` pairs of another one, evenly spaced.

    The text is repeated as often as the other one lasts, but not beyond the other's own size, so
    that much of both is seen however different their sizes are (Chu et al. 2017, "mixed
    fine-tuning", repeat the smaller text, too). What is yielded depends on both texts and the ratio
    alone.

    Attributes:
        text: The text.
        other: What is mixed in.
        ratio: Pairs of `other` for each pair of `text`.
    """

    text: ParallelText
    other: ParallelText
    ratio: float

    @property
    def identity(self) -> str:
        return f"{self.text.identity} {self.mixed_identity}"

    @property
    def mixed_identity(self) -> str:
        """What `other` and the ratio add to the identity of `text`."""
        return f"{self.other.identity} {self.ratio}"

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Pairs of each, which are counted once."""
        of_text, of_other = (sum(1 for _ in each) for each in (self.text, self.other))
        return of_text, of_other

    @cached_property
    def amounts(self) -> tuple[int, int]:
        """Pairs that are yielded of the text and of the other one.

        Raises:
            TextError: There would be none of one.
        """
        of_text, of_other = self._counts
        repeats = max(1, int(of_other / (max(of_text, 1) * max(self.ratio, 1.0))))
        wanted = repeats * of_text, round(self.ratio * repeats * of_text)
        for text, count, amount in zip((self.text, self.other), self._counts, wanted):
            if count == 0:
                raise TextError(f"{text} hold no pair of lines: give others, or mix nothing in")
            if amount == 0:
                raise TextError(
                    f"at a ratio of {self.ratio:g} no pair of {text} would be mixed in: raise it"
                )
        return wanted

    def __iter__(self) -> Iterator[tuple[str, str]]:
        (of_text, of_other), amounts = self._counts, self.amounts
        yield from resample(self.text, of_text, amounts[0])
        yield from resample(self.other, of_other, amounts[1])

    def __str__(self) -> str:
        return f"{self.text} with {self.other} at a ratio of {self.ratio:g}"


def resample(text: ParallelText, count: int, wanted: int) -> Iterator[tuple[str, str]]:
    """Yield `wanted` pairs of a text, evenly spaced; all of them several times if it is smaller.

    Args:
        text: The text.
        count: Pairs that it has.
        wanted: Pairs to yield.
    """
    for number, pair in enumerate(text):
        for _ in range((number + 1) * wanted // count - number * wanted // count):
            yield pair
