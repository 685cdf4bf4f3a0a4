"""A folder held by one job at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from transformer_jax.errors import UserError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold a folder, made if missing, against other jobs; the lock dies with its holder.

    Where another job holds it, wait; or, with a `refusal`, raise UserError that says so. A folder
    that nothing was written to is removed again.
    """
    path = folder / "lock"
    with contextlib.ExitStack() as stack:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
            except BlockingIOError:
                raise UserError(str(refusal)) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break  # else the holder before has removed the file that was waited for
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):  # somebody may have removed it
                if [child.name for child in folder.iterdir()] == ["lock"]:
                    path.unlink()
                    folder.rmdir()
