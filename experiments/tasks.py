"""Tasks: runs that are trained and scored once, each in a process of its own.

A task's folder holds the run and, when it is done, result.json: what was found, by which code and
on what machine. A task that is done is not run again.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.ledger import Provenance, write_json
from experiments.runs import training_summary
from transformer_jax.config import RunConfig
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.run.identity import identity
from transformer_jax.run.train import train
from transformer_jax.terminal import command_errors

__all__ = ["BEAM", "Task", "run", "run_all"]

BEAM = Search(beam_size=4, alpha=0.6)


@dataclass(frozen=True)
class Task:
    """One run: a row and a seed, in a folder of its own, scored on so many sentences (None: all).

    text  what it is trained and scored on, as far as the configuration does not say it
    """

    row: str
    seed: int
    config: RunConfig
    folder: Path
    scored: int | None
    text: str

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def identity(self) -> str:
        """Equal for tasks that find the same."""
        number = identity(self.config, self.text)
        # As `repr` of these in a tuple, with the search as it was written at first.
        parts = f"({number!r}, {self.config.train.steps}, {self.scored}, {_written_at_first(BEAM)})"
        return hashlib.sha256(parts.encode()).hexdigest()

    def cached_result(self) -> dict | None:
        """What the run found, if it was this task."""
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


def run(task: Task) -> dict:
    """Train and score one row, and write down what it found."""
    import jax

    from transformer_jax.data.text import TextFiles
    from transformer_jax.evaluation.bleu import exact_match, score_all
    from transformer_jax.run.splits import dataset_splits
    from transformer_jax.translator import Translator

    start, where = time.perf_counter(), Provenance.here(f"{task.row}, seed {task.seed}")
    train(task.config, task.folder, progress=False)
    files = task.config.data.validation
    text = TextFiles(*files) if files else dataset_splits(task.folder)["validation"]
    sources, references = zip(*list(text)[: task.scored])
    translator = Translator.load(task.folder, "last")
    translations = translator.translate(sources, BEAM, split_sentences="never")
    scores = [*score_all(translations, references, "de"), exact_match(translations, references)]
    training = training_summary(task.folder)["training_seconds"]
    # A resumed run has trained longer than this call took.
    seconds = max(time.perf_counter() - start, training)
    found = {
        "row": task.row,
        "seed": task.seed,
        "steps": task.config.train.steps,
        "identity": task.identity,
        "parameters": sum(x.size for x in jax.tree.leaves(translator.params)),
        "perplexity": translator.perplexity(sources, references),
        **{score.name: score.value for score in scores},
        "signatures": {score.name: score.signature for score in scores},
        "training_seconds": training,
        "where": asdict(where.with_duration(seconds)),
    }
    write_json(task.result, found)
    return found


def run_all(wanted: Sequence[Task], jobs: int, cache: Path) -> None:
    """All tasks, `jobs` at a time, each in a process of its own."""
    # What the processes inherit: programs compiled for one row serve where it resumes; one thread
    # each where they are several, and no memory of a GPU taken ahead.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.absolute()))
    if jobs > 1:
        os.environ.setdefault("NPROC", "1")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    pool = ThreadPoolExecutor(jobs)
    try:
        for number, result in enumerate(pool.map(_in_a_process, wanted), 1):
            print(
                f"{number:3} of {len(wanted)}  {result['row']:16} seed {result['seed']}  "
                f"PPL {result['perplexity']:6.3f}  BLEU {result['BLEU']:5.1f}  "
                f"{result['where']['seconds']:5.0f} s",
                flush=True,
            )
    finally:
        # Interrupted, or one has failed: the others save what they have and end, too.
        pool.shutdown(wait=False, cancel_futures=True)
        for job in multiprocessing.active_children():
            job.terminate()
        pool.shutdown()


def _in_a_process(task: Task) -> dict:
    """What a task finds, by way of its file: a process may end as it likes."""
    if task.cached_result() is None:
        job = multiprocessing.get_context("spawn").Process(target=_job, args=(task,))
        job.start()
        job.join()
    if (found := task.cached_result()) is None:
        raise UserError(
            f"{task.folder} ended without a result (exit code {job.exitcode}; messages above): the "
            "same command resumes; -9 may be want of memory, then give fewer --jobs"
        )
    return found


def _job(task: Task) -> None:
    with command_errors():
        run(task)
