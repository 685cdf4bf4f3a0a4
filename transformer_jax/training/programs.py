"""Jitted functions of batches, compiled for the next shapes while the first ones run."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import jax

__all__ = ["Program", "Programs"]

# A compilation takes a core and a half, and memory of the host.
MOST_COMPILERS = 4


class Programs:
    """What compiles programs ahead: traced in the thread that calls them, compiled in others.

    Tracing stays in that thread, because JAX's settings are those of a thread.
    """

    def __init__(self):
        self._requests: Iterator[tuple[Program, Sequence[Any]]] = iter(())
        self._pool: Any = None
        self._compilers = min(os.cpu_count() or 1, MOST_COMPILERS)
        self._unfinished: set[Future] = set()

    @contextmanager
    def ahead(self, requests: Iterable[tuple["Program", Sequence[Any]]]) -> Iterator[None]:
        """Begin to compile the first program, and within this context the next ones: whenever a
        compiler is free while one that is called is not ready, or after it has been called.

        What is being compiled when the context ends is not waited for.

        Args:
            requests: Programs with arrays to compile for, or shapes of them, in the order of use.
        """
        self._requests = iter(requests)
        self._pool = ThreadPoolExecutor(self._compilers)
        self._unfinished = set()
        try:
            self.begin_next()
            yield
        finally:
            self._requests = iter(())
            self._pool.shutdown(wait=False, cancel_futures=True)

    def begin_next(self) -> bool:
        """Trace the next program and begin to compile it; False where there is none."""
        for program, arguments in self._requests:
            if (begun := program.begin(self._pool, *arguments)) is not None:
                self._unfinished.add(begun)
                return True
        return False

    def begin_if_free(self) -> bool:
        """Begin with the next program unless all compilers are busy.

        Tracing takes a second or two of the caller, whose own program may be ready meanwhile, as
        one that is read from the cache is.
        """
        self._unfinished = {each for each in self._unfinished if not each.done()}
        return len(self._unfinished) < self._compilers and self.begin_next()

    def wait_for_one(self) -> bool:
        """Wait for one of the programs that are being compiled; False where there is none."""
        return bool(wait(self._unfinished, return_when=FIRST_COMPLETED).done)


class Program:
    """A jitted function of, among others, a batch."""

    def __init__(self, jitted: Any, names: Sequence[str], programs: Programs):
        """Compile nothing yet.

        Args:
            jitted: The function, of `jax.jit` or `jax.pmap`.
            names: Of its arguments; the leaves of "batch" decide for which shape it is compiled.
            programs: What compiles it ahead.
        """
        self._jitted, self._programs = jitted, programs
        self._batch_at = names.index("batch") if "batch" in names else None
        self._compiled: dict[Any, Future] = {}

    def __call__(self, *arguments):
        shape = self._shape(arguments)
        if shape:
            self._begin_others_until_ready(shape)
        compiled = self._compiled.get(shape)
        if compiled is None or compiled.cancelled() or compiled.exception() is not None:
            # Where compiling failed it is tried again alone, and fails here if it must.
            return self._jitted(*arguments)
        result = compiled.result()(*arguments)
        self._programs.begin_if_free()  # while the device computes
        return result

    def lower(self, *arguments) -> Any:
        """Lower the function; it is not compiled yet."""
        return self._jitted.lower(*arguments)

    def shapes(self, *arguments) -> Any:
        """Compute the shapes of its results."""
        return jax.eval_shape(self._jitted, *arguments)

    def compile(self, *arguments) -> Any:
        """Compile for arrays, or shapes of them; calls with these use it."""
        compiled: Future = Future()
        compiled.set_result(self.lower(*arguments).compile())
        self._compiled[self._shape(arguments)] = compiled
        return compiled.result()

    def begin(self, pool: ThreadPoolExecutor, *arguments) -> Future | None:
        """Begin to compile for arrays, or shapes of them, in a pool; None where that is done."""
        shape = self._shape(arguments)
        if shape in self._compiled:
            return None
        self._compiled[shape] = pool.submit(self.lower(*arguments).compile)
        return self._compiled[shape]

    def _begin_others_until_ready(self, shape) -> None:
        programs = self._programs
        while shape not in self._compiled or not self._compiled[shape].done():
            if not (programs.begin_if_free() or programs.wait_for_one()):
                break

    def _shape(self, arguments) -> tuple | None:
        at = self._batch_at
        return None if at is None else tuple(x.shape for x in jax.tree.leaves(arguments[at]))
