"""train, prepare, average, verify-resume: commands that write."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import ConfigFile, Preset, RunDir
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError

__all__ = ["Average", "Prepare", "Train", "VerifyResume"]


@dataclass(frozen=True)
class Train:
    """Train a model, or go on where its run folder stopped."""

    run_dir: Path
    """Folder of the run: made if missing, continued if there."""
    preset: Preset = "base"
    config_file: ConfigFile = None
    print_config: bool = False
    """Print as JSON what would be trained, and do nothing."""
    init_from: Path | None = None
    """Run folder whose parameters a new run starts from."""
    fit_memory: bool = False
    """Cut each update into as few batches as fit in the device's memory: batch_tokens falls as
    accumulate rises."""
    profile: int = 0
    """Write a trace of so many steps to profile/ in the run folder, for TensorBoard's profiler."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        if self.print_config:
            print(self.config.to_json(), end="")
            return
        if self.profile < 0:
            raise UserError(f"profile {self.profile} steps: must not be negative")
        from transformer_jax.job import train

        train(
            self.config,
            self.run_dir,
            init_from=self.init_from,
            fit=self.fit_memory,
            profile=self.profile,
        )
        print(self.run_dir)


@dataclass(frozen=True)
class Prepare:
    """Train the vocabulary and tokenise the text into a folder that `train --corpus` reads."""

    output: Path
    """Folder to write."""
    preset: Preset = "base"
    config_file: ConfigFile = None
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.data.preparation import prepare

        print(prepare(self.config.data, self.config.model.vocab_size, self.output))


@dataclass(frozen=True)
class Average:
    """Write the mean of a run's checkpoints, which it then translates with (section 6.1)."""

    run_dir: RunDir
    last: int = 5
    """The newest so many checkpoints."""
    steps: tuple[int, ...] = ()
    """Instead: the checkpoints of these steps."""

    def run(self) -> None:
        from transformer_jax.job import average

        steps = average(self.run_dir, last=self.last, steps=self.steps)
        print(f"{self.run_dir / 'averaged'}: mean of {', '.join(map(str, steps))}")


@dataclass(frozen=True)
class VerifyResume:
    """Prove that killed jobs go on exactly: train, kill, go on, compare with a job never killed.

    Without text of its own it trains on sentences of the embedded grammar. Exits 1 if anything
    differs.
    """

    output: Path
    """Folder for the two runs, made anew; they are kept."""
    updates: int = 40
    """Updates of each run, instead of the configuration's; a quarter of them between saves."""
    kills: int = 3
    """SIGKILLs, after random updates."""
    preset: Preset = "tiny"
    config_file: ConfigFile = None
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.verification import verify_resume

        verdict = verify_resume(self.config, self.output, self.updates, self.kills)
        print(verdict)
        if not verdict.holds:
            raise UserError(f"killed jobs do not go on exactly; both runs are in {self.output}")
