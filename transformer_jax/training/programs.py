"""Jitted functions of batches, compiled for the next shapes while the first ones run."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax

__all__ = ["Program", "Programs"]

# XLA uses about one core and a half for a program, and the CPU's memory for each.
MOST_COMPILERS = 4


class Programs:
    """What compiles programs ahead: traced in the thread that calls them, compiled in others.

    Tracing stays in one thread, because JAX's settings and Python's lock belong to it.
    """

    def __init__(self):
        self._requests: Iterator[tuple[Program, Sequence[Any]]] = iter(())
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def ahead(self, requests: Iterable[tuple["Program", Sequence[Any]]]) -> Iterator[None]:
        """Within this context compile programs ahead whenever one that is called is not ready.

        Args:
            requests: Programs with arrays to compile for, or shapes of them, in the order of use.
        """
        self._requests = iter(requests)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_COMPILERS)) as self._pool:
            try:
                yield
            finally:
                self._requests = iter(())
                self._pool.shutdown(cancel_futures=True)

    def begin_next(self) -> bool:
        """Trace the next program and begin to compile it; False where there is none."""
        for program, arguments in self._requests:
            program.begin(self._pool, *arguments)
            return True
        return False


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
        # Rather than wait, trace what is called later.
        while shape and not self._is_ready(shape) and self._programs.begin_next():
            pass
        compiled = self._compiled.get(shape)
        if compiled is None or compiled.cancelled():
            return self._jitted(*arguments)
        return compiled.result()(*arguments)

    def lower(self, *arguments) -> Any:
        """Lower the function; it is not compiled yet."""
        return self._jitted.lower(*arguments)

    def shapes(self, *arguments) -> Any:
        """Compute the shapes of its results."""
        return jax.eval_shape(self._jitted, *arguments)

    def compile(self, *arguments) -> Any:
        """Compile for arrays, or shapes of them, once."""
        self.begin(None, *arguments)
        return self._compiled[self._shape(arguments)].result()

    def begin(self, pool: ThreadPoolExecutor | None, *arguments) -> None:
        """Begin to compile for arrays, or shapes of them, in a pool; without one end it, too."""
        shape = self._shape(arguments)
        if shape in self._compiled:
            return
        lowered = self.lower(*arguments)
        if pool is not None:
            self._compiled[shape] = pool.submit(lowered.compile)
        else:
            self._compiled[shape] = Future()
            self._compiled[shape].set_result(lowered.compile())

    def _is_ready(self, shape) -> bool:
        return shape in self._compiled and self._compiled[shape].done()

    def _shape(self, arguments) -> tuple | None:
        at = self._batch_at
        return None if at is None else tuple(x.shape for x in jax.tree.leaves(arguments[at]))
