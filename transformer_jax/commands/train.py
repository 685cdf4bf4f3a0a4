"""train: train a model, or resume a run."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import ConfigFile, Preset
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError

__all__ = ["TrainCommand"]


@dataclass(frozen=True)
class TrainCommand:
    """Train a model, or resume where its run folder stopped."""

    run_dir: Path
    """Folder of the run: created if it is missing, resumed if it exists."""
    preset: Preset = "base"
    config_file: ConfigFile = None
    print_config: bool = False
    """Print the configuration as JSON and exit."""
    init_from: Path | None = None
    """Run folder whose vocabulary and parameters a new run starts with."""
    fit_memory: bool = False
    """Divide each update into the fewest batches that fit in memory: batch_tokens falls as
    accumulation_steps rises."""
    change_optimizer: bool = False
    """Let a run that has started go on with the optimizer's settings given here, from its newest
    checkpoint; the change is recorded in config.json."""
    profile: int = 0
    """Steps to trace with the profiler, into profile/ in the run folder, for TensorBoard."""
    distributed: bool = False
    """Train together with the processes that SLURM, Open MPI, Kubernetes or a TPU pod has started
    with the same command; JAX finds them."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where JAX cannot find it; needs num_processes and process_id."""
    num_processes: int | None = None
    """Number of processes that train together."""
    process_id: int | None = None
    """Number of this process, from 0."""
    config: RunConfig = RunConfig()

    def run(self) -> None:
        if self.print_config:
            print(self.config.to_json(), end="")
            return
        if self.profile < 0:
            raise UserError(f"profile {self.profile} steps: must not be negative")
        from transformer_jax.devices.processes import distributed_session, is_first
        from transformer_jax.run.train import train

        with distributed_session(self._processes()):
            train(
                self.config,
                self.run_dir,
                init_from=self.init_from,
                fit_memory=self.fit_memory,
                change_optimizer=self.change_optimizer,
                profile=self.profile,
            )
            if is_first():
                print(self.run_dir)

    def _processes(self):
        from transformer_jax.devices.processes import Processes

        given = (self.coordinator, self.num_processes, self.process_id)
        if not self.distributed and given == (None,) * 3:
            return None
        restart_command = shlex.join(["transformer-jax", *sys.argv[1:]])
        restart_command = re.sub(r"(--process[-_]id[ =])\d+", r"\1N", restart_command)
        return Processes(*given, restart_command=restart_command)
