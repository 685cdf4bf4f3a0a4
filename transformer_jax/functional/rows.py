"""The device axes along which a runner shards the rows of a batch."""

import contextlib
import contextvars
from collections.abc import Iterator

__all__ = ["row_axes", "set_row_axes"]

_AXES: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("row axes", default=())


def row_axes() -> tuple[str, ...]:
    """Return the axes over which sums of rows must be added up (`jax.lax.psum`); often none.

    >>> row_axes()
    ()
    """
    return _AXES.get()


@contextlib.contextmanager
def set_row_axes(*axes: str) -> Iterator[None]:
    """Have `row_axes` return `axes` within this context.

    A runner enters it while a function is traced under `jax.pmap` or `jax.shard_map`.

    >>> with set_row_axes("devices"):
    ...     row_axes()
    ('devices',)
    """
    before = _AXES.set(axes)
    try:
        yield
    finally:
        _AXES.reset(before)
