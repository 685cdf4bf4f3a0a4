"""prepare: make a vocabulary and token arrays of a text."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import ConfigFile, Preset
from transformer_jax.config import RunConfig

__all__ = ["PrepareCommand"]


@dataclass(frozen=True)
class PrepareCommand:
    """Train the vocabulary and tokenise the text into a folder that `train --corpus` reads."""

    output: Path
    """Folder to write."""
    preset: Preset = "base"
    config_file: ConfigFile = None
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.data.preparation import prepare
        from transformer_jax.tasks import task_of

        data, model = self.config.data, self.config.model
        task = task_of(data)
        folder = prepare(
            data,
            model.vocab_size,
            self.output,
            target_vocab_size=model.target_vocab_size,
            pairing=task.pairing,
            texts=task.texts(data),
        )
        print(folder)
