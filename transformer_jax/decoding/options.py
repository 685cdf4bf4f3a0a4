"""Options of a search. Imports no jax."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from transformer_jax.errors import MAX_INT32, UserError, did_you_mean

__all__ = ["PARSING_SEARCH", "EosRule", "LengthPenalty", "Search"]

LengthPenalty = Literal["gnmt", "power", "none"]
EosRule = Literal["shrink", "t2t"]


@dataclass(frozen=True)
class Search:
    """A search and its options; the defaults are the paper's (section 6.1)."""

    method: Literal["beam", "greedy", "sample"] = "beam"
    """beam search, greedy search (the likeliest token at each step), or sampling."""
    beam_size: int = 4
    """W, number of hypotheses kept for each sentence."""
    n_best: int = 1
    """Translations of each sentence: the best of the beam, or independent samples."""
    length_penalty: LengthPenalty = "gnmt"
    """Divisor of the log-probability: gnmt ((5 + length) / 6)^alpha, power length^alpha, or
    none."""
    alpha: float = 0.6
    """Exponent of the length penalty; a higher one favours longer translations."""
    eos_rule: EosRule = "shrink"
    """shrink: the beam is one narrower for each finished hypothesis; t2t: it stays full, as in
    tensor2tensor."""
    extra_length: int = 50
    """Most tokens of a translation beyond the length of its source."""
    temperature: float = 1.0
    """Temperature of sampling; a lower one is closer to greedy search."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 is all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Seed of sampling."""
    batch_tokens: int = 4096
    """Source tokens that a device searches at once, padding included. It decides speed and memory,
    not what is found."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} {value} is not finite")
            if type(value) is int and not -MAX_INT32 <= value <= MAX_INT32:
                raise UserError(f"{name} {value} is larger than {MAX_INT32}")
        rules = {
            "beam_size": (self.beam_size >= 1, "must be at least 1"),
            "n_best": (self.n_best >= 1, "must be at least 1"),
            "batch_tokens": (self.batch_tokens >= 1, "must be at least 1"),
            "extra_length": (self.extra_length >= 1, "must be at least 1"),
            "temperature": (
                self.temperature >= 1e-6,
                "is below 1e-6: take --method greedy",
            ),
            "seed": (self.seed >= 0, "must not be negative"),
            "top_k": (self.top_k >= 0, "must not be negative"),
            "top_p": (0 < self.top_p <= 1, "is outside (0, 1]"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise UserError(f"{name} {getattr(self, name)} {rule}")
        if self.method == "beam" and self.n_best > self.beam_size:
            raise UserError(
                f"n_best {self.n_best} is more than beam_size {self.beam_size}: raise beam_size"
            )
        if self.method == "greedy" and self.n_best > 1:
            raise UserError(f"n_best {self.n_best}: greedy search finds one translation")

    def with_options(self, **options: Any) -> "Search":
        """Return this search with other values of some fields; TypeError for an unknown name.

        >>> Search().with_options(beam_size=8).beam_size
        8
        """
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                raise TypeError(f"{name!r} is not an option of Search; {did_you_mean(name, known)}")
        return replace(self, **options)

    @property
    def rows(self) -> int:
        """Hypotheses of one sentence, as rows of the decoder's cache."""
        return {"beam": self.beam_size, "greedy": 1, "sample": self.n_best}[self.method]


# Of constituency parsing (section 6.3).
PARSING_SEARCH = Search(beam_size=21, alpha=0.3, extra_length=300)
