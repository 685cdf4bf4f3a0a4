"""train, prepare, average, verify-resume: commands that write."""

import re
import shlex
import sys
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
    distributed: bool = False
    """Train together with the other processes that SLURM, Open MPI, Kubernetes or a TPU pod has
    started with the same command; JAX finds them."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where nothing tells JAX; with num_processes and process_id."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        if self.print_config:
            print(self.config.to_json(), end="")
            return
        if self.profile < 0:
            raise UserError(f"profile {self.profile} steps: must not be negative")
        from transformer_jax.devices.processes import is_first, joined
        from transformer_jax.run.train import train

        with joined(self._processes()):
            train(
                self.config,
                self.run_dir,
                init_from=self.init_from,
                fit=self.fit_memory,
                profile=self.profile,
            )
            if is_first():
                print(self.run_dir)

    def _processes(self):
        from transformer_jax.devices.processes import Processes

        given = (self.coordinator, self.num_processes, self.process_id)
        if not self.distributed and given == (None,) * 3:
            return None
        again = shlex.join(["transformer-jax", *sys.argv[1:]])
        again = re.sub(r"(--process[-_]id[ =])\d+", r"\1N", again)
        return Processes(*given, again=again)


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
        from transformer_jax.tasks import task_of

        data, model = self.config.data, self.config.model
        folder = prepare(
            data,
            model.vocab_size,
            self.output,
            target_vocab_size=model.target_vocab_size,
            pairing=task_of(data).pairing,
        )
        print(folder)


@dataclass(frozen=True)
class Average:
    """Write the mean of a run's checkpoints, which it then translates with (section 6.1)."""

    run_dir: RunDir
    last: int = 5
    """The newest so many checkpoints."""
    steps: tuple[int, ...] = ()
    """Instead: the checkpoints of these steps."""

    def run(self) -> None:
        from transformer_jax.run.average import average

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
    topologies: tuple[str, ...] = ()
    """Train once more, a part on each of these: N virtual CPU devices, or PxN of P processes, as in
    1 8 2x4 4:fsdp=2,tensor=2; losses must agree."""
    preset: Preset = "tiny"
    config_file: ConfigFile = None
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.tools.verification import Topology, verify_moves, verify_resume

        topologies = [Topology.parse(text) for text in self.topologies]
        if len(topologies) > self.updates:
            raise UserError(
                f"updates {self.updates} are fewer than the {len(topologies)} topologies"
            )
        verdict = verify_resume(self.config, self.output, self.updates, self.kills)
        print(verdict)
        if not verdict.holds:
            raise UserError(f"killed jobs do not go on exactly; both runs are in {self.output}")
        if topologies:
            moved = verify_moves(self.output, topologies)
            print(moved)
            if not moved.holds:
                raise UserError(f"a moved job does not go on as it should; see {self.output}")
