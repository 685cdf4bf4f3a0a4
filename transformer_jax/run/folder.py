"""A run folder: configuration, vocabulary, checkpoints and records; all that translating needs.

config.json       configuration, format, the fingerprint of the training corpus and its lines
vocabulary.*      written before training starts
checkpoints/N/    the state after step N; these three elsewhere where train.checkpoint_dir says so
averaged/N/       the mean of the last checkpoints up to step N
damaged/N/        checkpoints that could not be read when the run was resumed
corpus/           the prepared text, where it was prepared for this run
lock              held by the job that trains
metrics.jsonl  timings.jsonl  tensorboard/
"""

import dataclasses
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etils import epath

from transformer_jax import __version__
from transformer_jax.config import RunConfig
from transformer_jax.config.checks import from_json_value
from transformer_jax.data.corpus import Corpus, LineStatistics
from transformer_jax.data.preparation import TRAIN, VALIDATION
from transformer_jax.data.vocabulary import Vocabularies, load_vocabularies, save_vocabularies
from transformer_jax.errors import UserError
from transformer_jax.files import write_atomically
from transformer_jax.run.changes import OptimizerChange, optimizer_at
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.formats import FORMAT, upgrade_run
from transformer_jax.run.identity import identity, old_identities
from transformer_jax.run.names import CHECKPOINTS, CONFIG, PREPARED
from transformer_jax.run.retention import Retention
from transformer_jax.tasks import Task, task_of
from transformer_jax.training.optimizer import MakeOptimizer, make_optimizer
from transformer_jax.training.step import StepFunctions

__all__ = ["Origin", "Run", "RunError", "check_store"]


class RunError(UserError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


def check_store(store: str | Path) -> None:
    """Raise RunError for a folder or an address from which no checkpoint could be read back."""
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


@dataclass(frozen=True)
class Origin:
    """Where an imported model came from.

    Attributes:
        format: Name of its format, as `transformer-jax import` says it.
        name: Name of its folder or file.
        sha256: SHA-256 of its weights' file.
    """

    format: str
    name: str
    sha256: str


@dataclass
class Run:
    """An opened run folder.

    Attributes:
        folder: The folder.
        config: The whole configuration.
        corpus_fingerprint: SHA-256 of the training text's arrays and vocabularies.
        vocabularies: Those of both sides.
        lines: What the source lines of the training text are like; None for runs that began before
            this was recorded.
        origin: Where the model was imported from; None of one that was trained here.
        changes: What was changed in the optimizer's settings since the run began.
    """

    folder: Path
    config: RunConfig
    corpus_fingerprint: str
    vocabularies: Vocabularies
    lines: LineStatistics | None = None
    origin: Origin | None = None
    changes: tuple[OptimizerChange, ...] = ()

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a folder holds a run."""
        return (folder / CONFIG).is_file()

    @classmethod
    def create(
        cls, folder: Path, config: RunConfig, corpus: Corpus, lines: LineStatistics | None = None
    ) -> "Run":
        """Write a new run; config.json comes last, so that a folder without it is no run.

        Args:
            folder: The folder, made if missing.
            config: The whole configuration.
            corpus: The prepared training text.
            lines: What the source lines are like; by default those of the corpus.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_vocabularies(corpus.vocabularies, folder)
        run = cls(folder, config, corpus.fingerprint, corpus.vocabularies, lines or corpus.lines)
        run.write_config()
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run folder.

        Raises:
            RunError: It is not a run folder, or its files do not belong together.
        """
        path = folder / CONFIG
        if not path.is_file():
            raise RunError(f"{folder} is not a run folder: it has no config.json")
        if "\\" in str(folder.absolute()):  # its checkpoints would seem to be damaged
            check_store(folder)
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        return cls.from_tree(folder, tree, load_vocabularies(folder), path)

    @classmethod
    def from_tree(
        cls, folder: Path, tree: Any, vocabularies: Vocabularies, path: Path | None = None
    ) -> "Run":
        """Make a run of what config.json says.

        Args:
            folder: The run folder, or the file that holds the model.
            tree: The content of config.json.
            vocabularies: Those of both sides.
            path: What messages call config.json; by default the folder.

        Raises:
            RunError: The tree is damaged, or the vocabularies are not of its sizes.
        """
        path = path or folder
        try:
            tree = upgrade_run(tree)
            config = RunConfig.from_json(json.dumps(tree["config"]))
            fingerprint = str(tree["corpus_fingerprint"])
            found = tree.get("source_lines")
            lines = from_json_value(LineStatistics, found, "source_lines") if found else None
            found = tree.get("origin")
            origin = from_json_value(Origin, found, "origin") if found else None
            kind: Any = tuple[OptimizerChange, ...]
            changes = from_json_value(kind, tree.get("changes", []), "changes")
        except (
            UserError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
        wanted = config.model.vocab_size, config.model.target_size
        for vocabulary, size in zip(vocabularies, wanted):
            if len(vocabulary) != size:
                raise RunError(
                    f"{folder}: the vocabulary has {len(vocabulary)} types but {path} says "
                    f"{size}: one of the two files is not this run's"
                )
        return cls(folder, config, fingerprint, vocabularies, lines, origin, changes)

    def config_tree(self) -> dict[str, Any]:
        """Make the content of config.json."""
        tree = {
            "format": FORMAT,
            "version": __version__,
            "corpus_fingerprint": self.corpus_fingerprint,
            "source_lines": None if self.lines is None else dataclasses.asdict(self.lines),
            "config": json.loads(self.config.to_json()),
        }
        if self.origin is not None:
            tree["origin"] = dataclasses.asdict(self.origin)
        if self.changes:
            tree["changes"] = [dataclasses.asdict(change) for change in self.changes]
        return tree

    def write_config(self) -> None:
        """Write config.json."""
        write_atomically(self.folder / CONFIG, json.dumps(self.config_tree(), indent=2) + "\n")

    @property
    def checkpoint_root(self) -> Any:
        """The folder that holds the folders of checkpoints: this one, or train.checkpoint_dir."""
        given = self.config.train.checkpoint_dir
        if given is None:
            return self.folder
        return epath.Path(given) if "://" in given else Path(given)

    @property
    def prepared(self) -> Path:
        """The folder of the run's prepared text: its own, or the one given as data.corpus."""
        given = self.config.data.corpus
        return Path(given) if given else self.folder / PREPARED

    def training_corpus(self) -> Corpus:
        """Open the prepared training text; CorpusError if it is not there."""
        return Corpus.open(self.prepared / TRAIN)

    def validation_corpus(self) -> Corpus | None:
        """Open the prepared validation text; None for a run without."""
        folder = self.prepared / VALIDATION
        return Corpus.open(folder) if folder.is_dir() else None

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides the numbers of the run; checkpoints carry it."""
        return identity(self.config, self.corpus_fingerprint, self.changes)

    def at(self, step: int) -> "Run":
        """This run as it was when update step + 1 was made, with the settings of that time."""
        optimizer = optimizer_at(self.config.optimizer, self.changes, step)
        changes = tuple(each for each in self.changes if each.step <= step)
        return replace(self, config=replace(self.config, optimizer=optimizer), changes=changes)

    def is_own(self, found: str, step: int) -> bool:
        """Whether a checkpoint belongs to this run.

        Args:
            found: The identity that it carries.
            step: The last update before it.
        """
        then = self.at(step - 1)
        old = [] if then.changes else old_identities(then.config, then.corpus_fingerprint)
        return found in (then.identity, *old)

    @property
    def task(self) -> Task:
        """What the run is trained for."""
        return task_of(self.config.data)

    def step_functions(self, optimizer: MakeOptimizer = make_optimizer) -> StepFunctions:
        """Make what trains the run's model; it also knows the shapes of its state."""
        config = self.config
        model = self.task.model(config.model, self.vocabularies)
        return self.task.step_functions(model, config.optimizer, config.train.seed, optimizer)

    def check_config(self, config: RunConfig, change_optimizer: bool = False) -> None:
        """Raise RunError if fields that decide the numbers of the run have other values.

        Args:
            config: What to go on with.
            change_optimizer: Whether those of the optimizer may have.
        """
        old, new = self.config.identity_fields(), config.identity_fields()
        for name in old:
            of_optimizer = name.startswith("optimizer.")
            if old[name] != new[name] and not (of_optimizer and change_optimizer):
                may_change = of_optimizer and name != "optimizer.accumulation_steps"
                change = ", give --change-optimizer to go on with the new one" * may_change
                raise RunError(
                    f"{self.folder} was {'left' if self.changes else 'started'} with {name} = "
                    f"{old[name]!r} and cannot be resumed with {new[name]!r}: use the old value"
                    f"{change}, or another run folder with --init-from"
                )

    def check_corpus(self, corpus: Path, fingerprint: str) -> None:
        """Raise RunError if the prepared text is not the one that the run was trained on.

        Args:
            corpus: Folder of the prepared text, for the message.
            fingerprint: Fingerprint of the prepared text.
        """
        if fingerprint != self.corpus_fingerprint:
            raise RunError(
                f"{self.folder} was trained on corpus {self.corpus_fingerprint[:12]} but {corpus} "
                f"holds {fingerprint[:12]}: bring the old text back (an older version took blank "
                "lines and byte order marks for text), or take another run folder"
            )

    def checkpoints(self, *, read_only: bool = False) -> Checkpoints:
        """Open the run's checkpoints, kept as `config.train` says."""
        train = self.config.train

        def best(scores):
            score = scores.get(f"validation_{train.best_metric}")
            more = self.task.best_metrics.get(train.best_metric, False)
            return score if score is None or more else -score

        retention = Retention(train.keep_last, train.keep_every, best)
        return Checkpoints(self.checkpoint_root / CHECKPOINTS, retention, read_only=read_only)
