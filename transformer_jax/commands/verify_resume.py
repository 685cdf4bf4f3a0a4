"""verify-resume: prove that killed jobs resume exactly."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.commands.options import ConfigFile, Preset
from transformer_jax.config import RunConfig
from transformer_jax.errors import UserError

__all__ = ["VerifyResumeCommand"]


@dataclass(frozen=True)
class VerifyResumeCommand:
    """Prove that killed jobs resume exactly: train, kill, resume, and compare with an unkilled job.

    If no text is given, it trains on sentences of the embedded grammar. Exits 1 if anything
    differs.
    """

    output: Path
    """New folder for the two runs, which are kept."""
    updates: int = 40
    """Updates of each run, instead of the configuration's steps; saved after each quarter."""
    kills: int = 3
    """Number of SIGKILLs, after random updates."""
    change_optimizer: bool = False
    """Halve the learning rate in the middle of both runs, as train --change-optimizer does."""
    topologies: tuple[str, ...] = ()
    """Train again, a part on each of these topologies: N virtual CPU devices, or PxN of P
    processes, as in 1 8 2x4 4:fsdp=2,tensor=2; losses must agree."""
    preset: Preset = "tiny"
    config_file: ConfigFile = None
    config: RunConfig = RunConfig()

    def run(self) -> None:
        from transformer_jax.tools.verification import Topology, verify_moves, verify_resume

        if self.change_optimizer and self.topologies:
            raise UserError(
                "--change-optimizer and --topologies are two proofs: ask for one at a time"
            )
        topologies = [Topology.parse(text) for text in self.topologies]
        if len(topologies) > self.updates:
            raise UserError(
                f"updates {self.updates} are fewer than the {len(topologies)} topologies"
            )
        verdict = verify_resume(
            self.config, self.output, self.updates, self.kills, self.change_optimizer
        )
        print(verdict)
        if not verdict.passed:
            raise UserError(f"killed jobs do not resume exactly; both runs are in {self.output}")
        if topologies:
            moved = verify_moves(self.output, topologies)
            print(moved)
            if not moved.passed:
                raise UserError(f"a moved job does not resume exactly; see {self.output}")
