"""Files and folders that appear whole or not at all, and folders held by one job at a time."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformer_jax.errors import UserError

__all__ = ["check_new_folder", "folder_lock", "replaced_folder", "write_atomically"]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under another name and then rename it, so that it is never seen half written.

    Text is UTF-8. Other names of the old file (hard links) keep what it held.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a", "text")
    ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
    [('a', 'text')]
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # or a machine that goes down could leave an empty file
    os.replace(partial, path)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which then takes the place of `folder`.

    Where filling it fails it is removed, and what was there before stays.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def check_new_folder(folder: Path, source: Path) -> None:
    """Raise UserError where `replaced_folder` could not make a folder, or would destroy something.

    Args:
        folder: The folder to make; those above it are made here.
        source: What is read to fill it.
    """
    absolute = folder.resolve()
    if source.resolve().is_relative_to(absolute.with_name(f"{absolute.name}.partial")):
        raise UserError(f"{source} is where {folder} is built before it is whole: choose another")
    try:
        absolute.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}: choose another folder") from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: choose another folder")


@contextlib.contextmanager
def folder_lock(folder: Path, refusal: str | None = None) -> Iterator[None]:
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
