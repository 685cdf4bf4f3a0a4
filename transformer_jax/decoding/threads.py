"""Two batches of a search at once, each in a thread of its own.

On a CPU the operations of a program are short, and its workers wait for each other after each.
What waits for one batch computes for the other: with 2 cores, 32 sentences and more took two
thirds to three quarters of the time.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from transformer_jax.decoding.beam import BeamResult

__all__ = ["SharedProgram", "search_in_threads", "thread_count"]

THREADS = 2
# A thread with fewer sentences would gain nothing.
LEAST = 8


class SharedProgram:
    """A compiled function that threads may call: one of them compiles it, the others wait."""

    def __init__(self, function: Callable[..., Any]):
        self._function, self._lock, self._is_compiled = function, threading.Lock(), False

    def __call__(self, *arguments: Any) -> Any:
        if self._is_compiled:
            return self._function(*arguments)
        with self._lock:
            result = self._function(*arguments)
            self._is_compiled = True
        return result


def thread_count(sentences: int) -> int:
    """Choose the number of threads in which to search `sentences` sentences.

    >>> thread_count(3)
    1
    """
    if jax.default_backend() != "cpu":
        return 1
    return max(min(sentences // LEAST, THREADS), 1)


def search_in_threads(
    search: Callable[..., Iterator[tuple[int, BeamResult]]],
    threads: int,
    variables: Any,
    sources: Sequence[Sequence[int]],
    limits: Sequence[int],
    sample_ids: np.ndarray,
) -> Iterator[tuple[int, BeamResult]]:
    """Search as a `ContinuousSearch`, the sentences of each length shared among threads.

    Which thread has a sentence does not depend on their speed, so that a search finds the same to
    the last bit whenever it is run. Context managers of JAX around the call do not reach the
    threads; its settings by `jax.config.update` do.

    Args:
        search: A `ContinuousSearch`.
        threads: How many, at least 1.
        variables: As it takes them, and the other arguments, too.
        sources: Token ids of each source.
        limits: Most tokens of each target.
        sample_ids: [n, 2].

    Yields:
        What it yields.
    """
    if threads == 1:
        yield from search(variables, sources, limits, sample_ids, threads)
        return
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(share: list[int]) -> None:
        arrays = [sources[i] for i in share], [limits[i] for i in share], sample_ids[share]
        try:
            for i, found in search(variables, *arrays, threads):
                results.put((share[i], found))
                if stopped.is_set():
                    return
        except BaseException:
            stopped.set()
            raise
        finally:
            results.put(None)

    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    with ThreadPoolExecutor(threads) as pool:
        works = [pool.submit(work, order[first::threads]) for first in range(threads)]
        try:
            for _ in works:
                yield from iter(results.get, None)  # until one of them has ended
        finally:
            stopped.set()  # nobody waits for more
        for each in works:
            each.result()
