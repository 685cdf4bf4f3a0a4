"""train, prepare, average: commands that write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from transformer_jax.config import RunConfig

__all__ = ["Average", "Prepare", "Train"]

ConfigFile = Annotated[Path | None, tyro.conf.arg(name="config")]


@dataclass(frozen=True)
class Train:
    """Train a model, or go on where its run folder stopped."""

    run_dir: Path
    """Folder of the run: made if missing, continued if there."""
    preset: str = "base"
    """Configuration to start from: tiny, multi30k, base, big, table3-ROW (as table3-B-dk-16)."""
    config_file: ConfigFile = None
    """Instead of a preset: a run's config.json, or what --print-config printed."""
    print_config: bool = False
    """Print as JSON what would be trained, and do nothing."""
    init_from: Path | None = None
    """Run folder whose parameters a new run starts from."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        if self.print_config:
            print(self.config.to_json(), end="")
            return
        from transformer_jax.job import train

        train(self.config, self.run_dir, init_from=self.init_from)
        print(self.run_dir)


@dataclass(frozen=True)
class Prepare:
    """Train the vocabulary and tokenise the text into a folder that `train --corpus` reads."""

    output: Path
    """Folder to write."""
    preset: str = "base"
    """Configuration to start from: tiny, multi30k, base, big, table3-ROW (as table3-B-dk-16)."""
    config_file: ConfigFile = None
    """Instead of a preset: a run's config.json, or what `train --print-config` printed."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.data.preparation import prepare

        print(prepare(self.config.data, self.config.model.vocab_size, self.output))


@dataclass(frozen=True)
class Average:
    """Write the mean of a run's checkpoints, which it then translates with (section 6.1)."""

    run_dir: Path
    """Folder of a trained run."""
    last: int = 5
    """The newest so many checkpoints."""
    steps: tuple[int, ...] = ()
    """Instead: the checkpoints of these steps."""

    def run(self) -> None:
        from transformer_jax.job import average

        steps = average(self.run_dir, last=self.last, steps=self.steps)
        print(f"{self.run_dir / 'averaged'}: mean of {', '.join(map(str, steps))}")
