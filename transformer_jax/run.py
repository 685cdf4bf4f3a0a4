"""A run folder: configuration, vocabulary, checkpoints and records; all that translating needs.

config.json       configuration, format and the fingerprint of the training corpus
vocabulary.*      written before training starts
checkpoints/N/    the state after step N
averaged/N/       the mean of the last checkpoints up to step N
metrics.jsonl  timings.jsonl  tensorboard/
"""

import fcntl
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from transformer_jax import __version__
from transformer_jax.checkpoints import Checkpoints, DamagedCheckpoint, on_device
from transformer_jax.config import RunConfig
from transformer_jax.data.vocabulary import Vocabulary, load_vocabulary
from transformer_jax.errors import UserError
from transformer_jax.training.averaging import average
from transformer_jax.training.state import TrainState

__all__ = ["Run", "RunError"]

FORMAT = 1
log = logging.getLogger(__name__)


class RunError(UserError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


@dataclass
class Run:
    """An opened run folder."""

    folder: Path
    config: RunConfig
    corpus_fingerprint: str
    vocabulary: Vocabulary

    @classmethod
    def exists(cls, folder: Path) -> bool:
        return (folder / "config.json").is_file()

    @classmethod
    def create(
        cls, folder: Path, config: RunConfig, corpus_fingerprint: str, vocabulary: Vocabulary
    ) -> "Run":
        """Write a new run; config.json comes last, so a folder without it is no run."""
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary.save(folder)
        run = cls(folder, config, corpus_fingerprint, vocabulary)
        run.write_config()
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read an existing run folder."""
        path = folder / "config.json"
        if not path.is_file():
            raise RunError(f"{folder} is not a run folder: it has no config.json")
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            found = tree.get("format") if isinstance(tree, dict) else None
            if found != FORMAT:
                raise ValueError(f"its format is {found!r}, this version reads {FORMAT}")
            config = RunConfig.from_json(json.dumps(tree["config"]))
            fingerprint = str(tree["corpus_fingerprint"])
        except (ValueError, KeyError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        return cls(folder, config, fingerprint, load_vocabulary(folder))

    def write_config(self) -> None:
        tree = {
            "format": FORMAT,
            "version": __version__,
            "corpus_fingerprint": self.corpus_fingerprint,
            "config": json.loads(self.config.to_json()),
        }
        partial = self.folder / "config.json.partial"
        partial.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / "config.json")

    def resume(self, config: RunConfig, corpus_fingerprint: str) -> None:
        """Take over `config` for going on; fields that decide the numbers must not differ."""
        old, new = self.config.identity(), config.identity()
        for name in old:
            if old[name] != new[name]:
                raise RunError(
                    f"{self.folder} was started with {name} = {old[name]!r} and cannot go on with "
                    f"{new[name]!r}: use the old value, or another run folder with --init-from"
                )
        if corpus_fingerprint != self.corpus_fingerprint:
            raise RunError(
                f"{self.folder} was trained on corpus {self.corpus_fingerprint[:12]}, this text "
                f"gives {corpus_fingerprint[:12]}: the training files or the vocabulary changed"
            )
        self.config = config
        self.write_config()

    def lock(self):
        """Hold the folder against a second training job; the lock dies with its holder."""
        file = (self.folder / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise RunError(f"another job is training in {self.folder}") from None
        return file

    def checkpoints(self, *, read_only: bool = False) -> Checkpoints:
        train = self.config.train
        return Checkpoints(
            self.folder / "checkpoints",
            keep_last=train.keep_last,
            keep_every=train.keep_every,
            read_only=read_only,
        )

    def load_params(self, template: Any, checkpoint: str = "averaged") -> tuple[Any, str]:
        """(parameters, name of the checkpoint) to translate with.

        `checkpoint` is "averaged", "best", "last" or a step. "averaged" falls back to the newest
        checkpoint while there is no average yet.
        """
        template = on_device(template)
        if checkpoint == "averaged" and (self.folder / "averaged").is_dir():
            averaged = Checkpoints(self.folder / "averaged", read_only=True)
            for step in reversed(averaged.steps()):
                items, _ = averaged.restore(step, {"params": template})
                return items["params"], f"averaged at step {step}"
        if not (self.folder / "checkpoints").is_dir():
            raise RunError(f"{self.folder} has no checkpoint yet")
        checkpoints = self.checkpoints(read_only=True)
        steps = checkpoints.steps()
        if not steps:
            raise RunError(f"{self.folder} has no checkpoint yet")
        if checkpoint in ("averaged", "last"):
            wanted = steps[::-1]
        elif checkpoint == "best":
            best = checkpoints.best_step()
            if best is None:
                raise RunError(f"{self.folder} has no evaluated checkpoint to call the best")
            wanted = [best]
        elif checkpoint.isdecimal() and int(checkpoint) in steps:
            wanted = [int(checkpoint)]
        else:
            raise RunError(
                f"{self.folder} has no checkpoint {checkpoint!r}; it has averaged, best, last, "
                f"{', '.join(map(str, steps))}"
            )
        step, params = self._newest_sound(checkpoints, wanted, template)
        return params, f"step {step}"

    def _newest_sound(self, checkpoints, steps, template):
        for step in steps:
            try:
                return step, _evaluation_params(checkpoints, step, template)
            except DamagedCheckpoint as error:
                log.warning("%s; trying an older one", error)
        raise RunError(f"{self.folder} has no sound checkpoint")

    def average(self, checkpoints: Checkpoints, template: Any, count: int) -> None:
        """Write averaged/ from the newest `count` checkpoints (section 6.1)."""
        steps = checkpoints.steps()[-count:]
        template = on_device(template)
        mean = jax.jit(average)([_evaluation_params(checkpoints, s, template) for s in steps])
        averaged = Checkpoints(self.folder / "averaged", keep_last=1)
        if steps[-1] not in averaged.steps():
            averaged.save(steps[-1], {"params": mean}, {"of": steps})
        averaged.close()


def _evaluation_params(checkpoints, step, template):
    name = "ema" if "ema" in checkpoints.metadata(step)["fingerprints"] else "params"
    return checkpoints.restore(step, {name: template})[0][name]


def state_items(state: TrainState) -> dict[str, Any]:
    """A state as the trees of a checkpoint; parameters stand alone so they load alone."""
    rest = {name: getattr(state, name) for name in ("step", "opt_state", *_COUNTERS)}
    items = {"params": state.params, "rest": rest}
    return items if state.ema is None else {**items, "ema": state.ema}


def state_of(items: dict[str, Any]) -> TrainState:
    """The inverse of `state_items`."""
    return TrainState(params=items["params"], ema=items.get("ema"), **items["rest"])


_COUNTERS = ("skipped", "skipped_in_a_row")
