"""Along which axes of devices the rows of a batch are cut, for what needs all of them."""

import contextlib
import contextvars
from collections.abc import Iterator

__all__ = ["row_axes", "rows_cut_along"]

_AXES: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("row axes", default=())


def row_axes() -> tuple[str, ...]:
    """Names of the axes over which sums of rows are to be taken (`jax.lax.psum`), often none.

    >>> row_axes()
    ()
    """
    return _AXES.get()


@contextlib.contextmanager
def rows_cut_along(*axes: str) -> Iterator[None]:
    """Within it, while a function is traced under `jax.pmap` or `jax.shard_map`, `row_axes` are
    these.

    >>> with rows_cut_along("devices"):
    ...     row_axes()
    ('devices',)
    """
    before = _AXES.set(axes)
    try:
        yield
    finally:
        _AXES.reset(before)
