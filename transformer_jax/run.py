"""A run folder: configuration, vocabulary, checkpoints and records; all that translating needs.

config.json       configuration, format, the fingerprint of the training corpus and its lines
vocabulary.*      written before training starts
checkpoints/N/    the state after step N; these three elsewhere where train.checkpoint_dir says so
averaged/N/       the mean of the last checkpoints up to step N
damaged/N/        checkpoints that could not be read when the run went on
corpus/           the prepared text, where it was prepared for this run
lock              held by the job that trains
metrics.jsonl  timings.jsonl  tensorboard/
"""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from transformer_jax import __version__
from transformer_jax.checkpoints import Checkpoints, DamagedCheckpoint, on_device
from transformer_jax.config import RunConfig, from_tree
from transformer_jax.data.corpus import Corpus, Lines
from transformer_jax.data.vocabulary import Vocabularies, load_vocabularies, save_vocabularies
from transformer_jax.errors import UserError
from transformer_jax.identity import identity, old_identities
from transformer_jax.models.families import build_model
from transformer_jax.tasks import Task, task_of
from transformer_jax.tasks.task import MakeOptimizer
from transformer_jax.training.averaging import average
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.state import TrainState
from transformer_jax.training.step import StepFunctions

__all__ = ["Run", "RunError", "check_store", "state_items", "state_of"]

FORMAT = 2
log = logging.getLogger(__name__)


class RunError(UserError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


def check_store(store: str | Path) -> None:
    """RunError for a folder or an address from which no checkpoint could be read back."""
    if "://" in str(store):
        try:
            epath.Path(store).exists()
        except Exception as error:  # each kind of store has its own
            line = (str(error).splitlines() or [""])[0]
            raise RunError(
                f"{store} cannot be reached ({type(error).__name__}: {line:.200}): install what "
                "reads such addresses, or take another --checkpoint-dir"
            ) from None
    elif sign := re.search(r"\\|\[.*\]", str(Path(store).absolute())):
        raise RunError(
            f"{Path(store).absolute()} holds {sign[0]!r}, and no checkpoint can be read back from "
            "such a path: choose another"
        )


@dataclass
class Run:
    """An opened run folder."""

    folder: Path
    config: RunConfig
    corpus_fingerprint: str
    vocabularies: Vocabularies
    lines: Lines | None = None
    """Of the training text; None where a run began before they were written down."""

    @classmethod
    def exists(cls, folder: Path) -> bool:
        return (folder / "config.json").is_file()

    @classmethod
    def create(
        cls, folder: Path, config: RunConfig, corpus: Corpus, lines: Lines | None = None
    ) -> "Run":
        """Write a new run; config.json comes last, so a folder without it is no run.

        `lines` are those of the corpus unless its model has read others before.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_vocabularies(corpus.vocabularies, folder)
        run = cls(folder, config, corpus.fingerprint, corpus.vocabularies, lines or corpus.lines)
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
            lines = from_tree(Lines, tree["lines"], "lines") if tree.get("lines") else None
        except (UserError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        vocabularies = load_vocabularies(folder)
        wanted = config.model.vocab_size, config.model.target_size
        for vocabulary, size in zip(vocabularies, wanted):
            if len(vocabulary) != size:
                raise RunError(
                    f"{folder}: the vocabulary has {len(vocabulary)} types but {path} says "
                    f"{size}: one of the two files is not this run's"
                )
        return cls(folder, config, fingerprint, vocabularies, lines)

    def write_config(self) -> None:
        tree = {
            "format": FORMAT,
            "version": __version__,
            "corpus_fingerprint": self.corpus_fingerprint,
            "lines": None if self.lines is None else dataclasses.asdict(self.lines),
            "config": json.loads(self.config.to_json()),
        }
        partial = self.folder / "config.json.partial"
        partial.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / "config.json")

    @property
    def store(self) -> Any:
        """Where the folders of checkpoints are: here, or where train.checkpoint_dir says."""
        given = self.config.train.checkpoint_dir
        if given is None:
            return self.folder
        return epath.Path(given) if "://" in given else Path(given)

    @property
    def identity(self) -> str:
        """One number for everything that decides the numbers of the run; checkpoints carry it."""
        return identity(self.config, self.corpus_fingerprint)

    def is_own(self, found: str) -> bool:
        """Whether a checkpoint with this identity is of this run."""
        return found in (self.identity, *old_identities(self.config, self.corpus_fingerprint))

    @property
    def task(self) -> Task:
        return task_of(self.config.data)

    def step_functions(self, optimizer: MakeOptimizer = make_optimizer) -> StepFunctions:
        """What trains the run's model, and knows the shapes of its state."""
        config = self.config
        model = build_model(config.model)
        return self.task.step_functions(model, config.optimizer, config.train.seed, optimizer)

    def check_config(self, config: RunConfig) -> None:
        """Refuse to go on with other values of fields that decide the numbers."""
        old, new = self.config.deciding(), config.deciding()
        for name in old:
            if old[name] != new[name]:
                raise RunError(
                    f"{self.folder} was started with {name} = {old[name]!r} and cannot go on with "
                    f"{new[name]!r}: use the old value, or another run folder with --init-from"
                )

    def check_corpus(self, corpus: Path, fingerprint: str) -> None:
        """Refuse to go on with another text or vocabulary."""
        if fingerprint != self.corpus_fingerprint:
            raise RunError(
                f"{self.folder} was trained on corpus {self.corpus_fingerprint[:12]} but {corpus} "
                f"holds {fingerprint[:12]}: bring the old text back (an older version took blank "
                "lines and byte order marks for text), or take another run folder"
            )

    def checkpoints(self, *, read_only: bool = False) -> Checkpoints:
        train = self.config.train

        def best(scores):
            score = scores.get(f"validation_{train.best_metric}")
            more = self.task.metrics.get(train.best_metric, False)
            return score if score is None or more else -score

        return Checkpoints(
            self.store / "checkpoints",
            keep_last=train.keep_last,
            keep_every=train.keep_every,
            best=best,
            read_only=read_only,
        )

    def load_variables(
        self, checkpoint: str = "averaged", place: Callable[[Any], Any] = on_device
    ) -> tuple[dict[str, Any], str]:
        """(parameters and collections, name of the checkpoint) to predict with.

        `place` makes of the shapes of {"params": ...}, and "collections" where the model has some,
        those with shardings that they are restored to. `checkpoint` is "averaged", "best", "last"
        or a step. "averaged" falls back to the newest sound checkpoint while there is no sound
        average as new as it.
        """
        template = place(_predicting_items(self.step_functions().shapes()))
        if not (self.store / "checkpoints").is_dir():
            raise RunError(f"{self.folder} has no checkpoint yet")
        checkpoints = self.checkpoints(read_only=True)
        steps = checkpoints.steps()
        if checkpoint == "averaged" and (found := self._averaged(template, steps)) is not None:
            return found
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
        step, items = self._newest_sound(checkpoints, wanted, template)
        return _variables(items), f"step {step}"

    def _averaged(self, template, steps):
        if not (self.store / "averaged").is_dir():
            return None
        averaged = Checkpoints(self.store / "averaged", read_only=True)
        for step in averaged.steps()[-1:]:
            try:
                items, meta = averaged.restore(step, template)
                if steps and meta.get("newest", step) < steps[-1]:
                    log.warning("training went on after the average at step %d was taken", step)
                    return None
                return _variables(items), f"averaged at step {step}"
            except DamagedCheckpoint as error:
                log.warning("%s; using the newest checkpoint instead", error)
        return None

    def _newest_sound(self, checkpoints, steps, template):
        for step in steps:
            try:
                return step, _restore_evaluated(checkpoints, step, template)
            except DamagedCheckpoint as error:
                log.warning("%s; trying an older one", error)
        raise RunError(f"{self.folder} has no sound checkpoint")

    def average(
        self,
        checkpoints: Checkpoints,
        steps: Sequence[int],
        place: Callable[[Any], Any] = on_device,
    ) -> list[int]:
        """Write averaged/ from the checkpoints of these steps (section 6.1).

        Damaged ones are left out. `place` as in `load_variables`. Collections are those of the
        newest: means of running statistics would be those of no parameters. Returns the steps
        averaged.
        """
        template = place(_predicting_items(self.step_functions().shapes()))
        averaged = Checkpoints(self.store / "averaged")
        steps, taken = sorted(set(steps)), []
        items: dict[str, Any] = {}

        def sound():
            nonlocal items
            for step in steps:
                try:
                    items = _restore_evaluated(checkpoints, step, template)
                except DamagedCheckpoint as error:
                    log.warning("%s; averaged without it", error)
                    continue
                taken.append(step)
                yield items["params"]

        newest = checkpoints.steps()[-1]
        if not _holds_average(averaged, template, steps, newest):
            try:
                mean = average(sound())
            except ValueError as error:
                raise RunError(f"{self.folder} has no sound checkpoint: {error}") from None
            # The old one goes when the new one is known.
            averaged.clear()
            items["params"] = mean
            averaged.save(taken[-1], items, {"of": taken, "newest": newest})
        averaged.close()
        return taken or steps


def _holds_average(averaged, template, steps, newest):
    try:
        _, meta = averaged.restore(averaged.steps()[-1], template)
    except (IndexError, DamagedCheckpoint):
        return False
    return meta.get("of") == steps and meta.get("newest") == newest


def _restore_evaluated(checkpoints, step, template):
    """Items of a checkpoint to predict with, the moving average for parameters if it has one."""
    wanted = dict(template)
    if has_ema := "ema" in checkpoints.metadata(step)["fingerprints"]:
        wanted["ema"] = wanted.pop("params")
    items, _ = checkpoints.restore(step, wanted)
    if has_ema:
        items["params"] = items.pop("ema")
    return items


def _predicting_items(state: TrainState) -> dict[str, Any]:
    """Those of `state_items` that predicting needs."""
    collections = {"collections": state.collections} if state.collections else {}
    return {"params": state.params, **collections}


def _variables(items: dict[str, Any]) -> dict[str, Any]:
    return {"params": items["params"], **items.get("collections", {})}


def state_items(state: TrainState) -> dict[str, Any]:
    """A state as the trees of a checkpoint; parameters stand alone so they load alone."""
    rest = {name: getattr(state, name) for name in ("step", "opt_state", *_COUNTERS)}
    items = {**_predicting_items(state), "rest": rest}
    return items if state.ema is None else {**items, "ema": state.ema}


def state_of(items: dict[str, Any]) -> TrainState:
    """The inverse of `state_items`."""
    collections = items.get("collections", {})
    return TrainState(
        params=items["params"], ema=items.get("ema"), collections=collections, **items["rest"]
    )


_COUNTERS = ("skipped", "skipped_in_a_row")
