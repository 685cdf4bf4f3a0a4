"""Work that is done once, each in a process of its own; runs that are trained and scored.

The folder of a work holds what it writes and, when it is done, result.json: what was found, by
which code and on what machine. What is done is not done again.
"""

import hashlib
import json
import multiprocessing
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.ledger import Provenance, write_json
from experiments.runs import training_summary
from transformer_jax.config import ModelConfig, RunConfig
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.run.identity import identity
from transformer_jax.run.train import train
from transformer_jax.terminal import command_errors

__all__ = [
    "BEAM", "SplitTask", "Task", "Work", "changed_fields", "distinct", "find_all", "folder_name",
    "on_one_device", "run_all",
]  # fmt: skip

BEAM = Search(beam_size=4, alpha=0.6)


class Work(ABC):
    """What is found once: by a row of a table and a seed, in a folder of its own."""

    row: str
    seed: int
    folder: Path

    @property
    @abstractmethod
    def identity(self) -> str:
        """Equal for work that finds the same."""

    @abstractmethod
    def find(self) -> dict:
        """Do it, and return what was found; "row" and "seed" are added."""

    @abstractmethod
    def describe(self, found: dict) -> str:
        """Describe on one line what was found."""

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def cached_result(self) -> dict | None:
        """What was found, if it was by this work."""
        if not self.result.exists():
            return None
        try:
            found = json.loads(self.result.read_text(encoding="utf-8"))
            return found if found["identity"] == self.identity else None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.result} is damaged ({type(error).__name__}: {error}): take it away, and "
                "the same command finds it again"
            ) from error

    def found(self) -> dict:
        """What was found by a work that has been run."""
        found = self.cached_result()
        if found is None:
            raise UserError(f"{self.folder} has no result: the same command finds it")
        return found

    def run(self) -> None:
        """Find, and write it down."""
        start, where = time.perf_counter(), Provenance.here(f"{self.row}, seed {self.seed}")
        found = self.find()
        # A resumed run has trained longer than this call took.
        seconds = max(time.perf_counter() - start, found.get("training_seconds", 0))
        known = {"row": self.row, "seed": self.seed, "identity": self.identity}
        where = where.with_duration(seconds)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.result, {**known, **found, "where": asdict(where)})


@dataclass(frozen=True)
class Task(Work):
    """One run that is trained, and scored on so many sentences (None: all).

    text  what it is trained and scored on, as far as the configuration does not say it
    """

    row: str
    seed: int
    config: RunConfig
    folder: Path
    scored: int | None
    text: str

    @property
    def identity(self) -> str:
        number = identity(self.config, self.text)
        # As `repr` of these in a tuple, with the search as it was written at first.
        parts = f"({number!r}, {self.config.train.steps}, {self.scored}, {_written_at_first(BEAM)})"
        return hashlib.sha256(parts.encode()).hexdigest()

    def find(self) -> dict:
        import jax

        from transformer_jax.data.text import TextFiles
        from transformer_jax.evaluation.bleu import exact_match, score_all
        from transformer_jax.run.splits import dataset_splits
        from transformer_jax.translator import Translator

        self.train()
        files = self.config.data.validation
        text = TextFiles(*files) if files else dataset_splits(self.folder)["validation"]
        sources, references = zip(*list(text)[: self.scored])
        translator = Translator.load(self.folder, "last")
        translations = translator.translate(sources, BEAM, split_sentences="never")
        training = training_summary(self.folder)
        scores = [*score_all(translations, references, "de"), exact_match(translations, references)]
        return {
            "steps": self.config.train.steps,
            "parameters": sum(x.size for x in jax.tree.leaves(translator.params)),
            "perplexity": translator.perplexity(sources, references),
            **{score.name: score.value for score in scores},
            "signatures": {score.name: score.signature for score in scores},
            "training_seconds": training["training_seconds"],
            "seconds_per_update": training["median_seconds_per_step"],
            **self.further_scores(translator),
        }

    def further_scores(self, translator: Any) -> dict[str, float]:
        """What else a trained run is scored on."""
        return {}

    def train(self) -> None:
        """Train the run, or go on with it."""
        train(self.config, self.folder, progress=False)

    def describe(self, found: dict) -> str:
        return f"PPL {found['perplexity']:6.3f}  BLEU {found['BLEU']:5.1f}"


@dataclass(frozen=True)
class SplitTask(Task):
    """A run on the embedded corpus that is scored on further splits, too."""

    splits: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return f"{super().identity} {' '.join(self.splits)}"

    def further_scores(self, translator: Any) -> dict[str, float]:
        from transformer_jax.evaluation.bleu import sacrebleu_score
        from transformer_jax.run.splits import dataset_splits

        texts, found = dataset_splits(self.folder), {}
        for split in self.splits:
            sources, references = zip(*list(texts[split])[: self.scored])
            written = translator.translate(sources, BEAM, split_sentences="never")
            found[f"BLEU {split}"] = sacrebleu_score("BLEU", written, references).value
        return found


def _written_at_first(search: Search) -> str:
    """The text of a search, by which finished results are known for ever; fields that are new since
    then count where they are not at their defaults."""
    words = {"length_penalty": "penalty", "shrink": "place"}
    first = (
        "method beam_size n_best penalty alpha eos_rule extra_length temperature top_k top_p seed"
    )
    defaults = asdict(Search())
    fields = [
        f"{words.get(name, name)}={words.get(value, value)!r}"
        for name, value in asdict(search).items()
        if words.get(name, name) in first.split() or value != defaults[name]
    ]
    return f"Search({', '.join(fields)})"


def changed_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that are not at their defaults: a new field changes no identity of a result.

    >>> changed_fields(ModelConfig(d_model=64))
    {'d_model': 64}
    """
    return {n: v for n, v in vars(config).items() if v != getattr(ModelConfig, n)}


def folder_name(title: str, seed: int) -> str:
    """The name of the folder of a row and a seed.

    >>> folder_name("rnn, not clipped", 2)
    'rnn-not-clipped-2'
    """
    return f"{title.replace(',', '').replace(' ', '-')}-{seed}"


def on_one_device(recipe: RunConfig, dataset: str, steps: int, seed: int, **data: Any) -> RunConfig:
    """A recipe on a dataset from English to German, for so many updates.

    Args:
        recipe: The recipe.
        dataset: Name of the dataset.
        steps: Updates; a shorter run than 50 is recorded at its end.
        seed: The seed.
        data: Further fields of its data.
    """
    return replace(
        recipe,
        data=replace(recipe.data, dataset=dataset, direction="en-de", **data),
        train=replace(
            recipe.train, steps=steps, seed=seed, parallel="jit", log_every=min(50, steps)
        ),
    )


def find_all(works: Mapping[str, Sequence[Work]], jobs: int, output: Path) -> dict[str, list[dict]]:
    """Find what has not been found, and return what each work of each row has found.

    Args:
        works: Row -> works.
        jobs: At a time.
        output: Folder in which compiled programs are kept.
    """
    run_all([work for row in works.values() for work in row], jobs, output / "compiled")
    return {name: [work.found() for work in row] for name, row in works.items()}


def distinct(found: Sequence[dict]) -> list[dict]:
    """Results without those that several tables share.

    >>> distinct([{"identity": "a"}, {"identity": "b"}, {"identity": "a"}])
    [{'identity': 'a'}, {'identity': 'b'}]
    """
    return list({each["identity"]: each for each in found}.values())


def run_all(wanted: Sequence[Work], jobs: int, cache: Path) -> None:
    """All work, `jobs` at a time, each in a process of its own."""
    # What the processes inherit: programs compiled for one row serve where it resumes; one thread
    # each where they are several, and no memory of a GPU taken ahead.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.absolute()))
    if jobs > 1:
        os.environ.setdefault("NPROC", "1")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    pool = ThreadPoolExecutor(jobs)
    try:
        for number, (work, found) in enumerate(zip(wanted, pool.map(_in_a_process, wanted)), 1):
            print(
                f"{number:3} of {len(wanted)}  {work.row:16} seed {work.seed}  "
                f"{work.describe(found)}  {found['where']['seconds']:5.0f} s",
                flush=True,
            )
    finally:
        # Interrupted, or one has failed: the others save what they have and end, too.
        pool.shutdown(wait=False, cancel_futures=True)
        for job in multiprocessing.active_children():
            job.terminate()
        pool.shutdown()


def _in_a_process(work: Work) -> dict:
    """What a work finds, by way of its file: a process may end as it likes."""
    if work.cached_result() is None:
        job = multiprocessing.get_context("spawn").Process(target=_job, args=(work,))
        job.start()
        job.join()
    if (found := work.cached_result()) is None:
        raise UserError(
            f"{work.folder} ended without a result (exit code {job.exitcode}; messages above): the "
            "same command resumes; -9 may be want of memory, then give fewer --jobs"
        )
    return found


def _job(work: Work) -> None:
    with command_errors():
        work.run()
