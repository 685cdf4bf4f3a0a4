"""score: score given translations."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import Checkpoint, RunDir

__all__ = ["ScoreCommand"]


@dataclass(frozen=True)
class ScoreCommand:
    """Print the log-probability (in nats, end of sentence included) of given translations."""

    run_dir: RunDir
    test: tuple[Path, Path]
    """Source file and file of translations."""
    checkpoint: Checkpoint = "averaged"

    def run(self) -> None:
        from transformer_jax.data.text import TextFiles
        from transformer_jax.translator import Translator

        translator = Translator.load(self.run_dir, self.checkpoint)
        pairs = list(TextFiles(*map(str, self.test)))  # a fault of the files comes before a score
        for log_prob in translator.score_stream(pairs):
            print(f"{log_prob:.4f}")
