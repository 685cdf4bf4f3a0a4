"""How a translation is looked for. Imports no jax."""

import math
from dataclasses import dataclass
from typing import Literal

from transformer_jax.errors import MAX_INT32, UserError

__all__ = ["EosRule", "LengthPenalty", "Search"]

LengthPenalty = Literal["gnmt", "power", "none"]
EosRule = Literal["shrink", "t2t"]


@dataclass(frozen=True)
class Search:
    """The defaults are the paper's (section 6.1)."""

    method: Literal["beam", "greedy", "sample"] = "beam"
    """Beam search, the likeliest token at each step, or random draws."""
    beam_size: int = 4
    """W, hypotheses kept for a sentence."""
    n_best: int = 1
    """Translations of a sentence: the best of the beam, or independent samples."""
    length_penalty: LengthPenalty = "gnmt"
    """Divides the log-probability: gnmt ((5 + length) / 6)^alpha, power length^alpha, or none."""
    alpha: float = 0.6
    """Exponent of the length penalty; higher favours longer translations."""
    eos_rule: EosRule = "shrink"
    """shrink: the beam is one narrower for each finished hypothesis; t2t: it stays full, as in
    tensor2tensor."""
    extra_length: int = 50
    """A translation has at most this many tokens more than its source."""
    temperature: float = 1.0
    """Of samples; lower is closer to greedy."""
    top_k: int = 0
    """Samples come from this many likeliest tokens; 0 is all."""
    top_p: float = 1.0
    """Samples come from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of samples."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} {value} is not finite")
            if type(value) is int and not -MAX_INT32 <= value <= MAX_INT32:
                raise UserError(f"{name} {value} is larger than {MAX_INT32}")
        rules = {
            "beam_size": (self.beam_size >= 1, "must be at least 1"),
            "n_best": (self.n_best >= 1, "must be at least 1"),
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

    @property
    def rows(self) -> int:
        """Rows of the decoder's cache for one sentence."""
        return {"beam": self.beam_size, "greedy": 1, "sample": self.n_best}[self.method]
