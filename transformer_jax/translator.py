"""A trained run as a translator of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from transformer_jax.data.vocabulary import Vocabulary
from transformer_jax.decoding.inference import Inference, Search
from transformer_jax.models.transformer import Transformer
from transformer_jax.run import Run

__all__ = ["Translation", "Translator"]


@dataclass(frozen=True)
class Translation:
    """Text, log-probability in nats, and score = log-probability / length penalty."""

    text: str
    log_prob: float
    score: float


class Translator:
    """Text in, text out, from a run folder alone."""

    def __init__(self, model: Transformer, params, vocabulary: Vocabulary, checkpoint: str = ""):
        self.model, self.params, self.vocabulary = model, params, vocabulary
        self.checkpoint = checkpoint
        self._inference = Inference(model, params)

    @classmethod
    def load(cls, run_dir: str | Path, checkpoint: str = "averaged") -> "Translator":
        """From a run folder. `checkpoint`: "averaged", "best", "last" or a step."""
        run = Run.open(Path(run_dir))
        model = Transformer(run.config.model)
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        template = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
        params, name = run.load_params(template, checkpoint)
        return cls(model, params, run.vocabulary, name)

    def translate(self, lines: Sequence[str], **search) -> list[str]:
        """The best translation of each line; keywords are those of `Search` (beam_size=4, ...)."""
        return [best[0].text if best else "" for best in self.translations(lines, **search)]

    def translations(self, lines: Sequence[str], **search) -> list[list[Translation]]:
        """n_best translations of each line, best first; an empty line has none."""
        encoded = [self.vocabulary.encode(line) for line in lines]
        wanted = [i for i, ids in enumerate(encoded) if ids]
        found = self._inference.translate([encoded[i] for i in wanted], Search(**search))
        results: list[list[Translation]] = [[] for _ in lines]
        for i, hypotheses in zip(wanted, found):
            results[i] = [
                Translation(self.vocabulary.decode(h.ids), h.log_prob, h.score) for h in hypotheses
            ]
        return results

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Log-probability in nats, EOS included, of each target given its source."""
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources but {len(targets)} targets")
        encode = self.vocabulary.encode
        parts = self._inference.score([encode(s) for s in sources], [encode(t) for t in targets])
        return [float(part.sum()) for part in parts]
