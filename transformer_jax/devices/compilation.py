"""A persistent cache of compiled programs, so that a second start does not compile again. Imports
no jax.
"""

import contextlib
import hashlib
import logging
import os
import platform
import stat
import sys
from pathlib import Path

__all__ = ["use_compilation_cache"]

log = logging.getLogger(__name__)

# Bytes beyond which the oldest programs are removed. JAX's own bound would keep a second file for
# each, and fail for ever where a killed job has left one of the two.
MOST_BYTES = 2 * 2**30
# Seconds of compiling below which a program is not worth a file.
LEAST_SECONDS = "0.1"
# What turns a setting of JAX off.
_OFF = ("n", "no", "f", "false", "off", "0")


def use_compilation_cache(folder: Path) -> None:
    """Let JAX keep compiled programs under a folder; call it before jax is imported.

    Nothing changes where jax is imported already, where the user has named a folder with
    JAX_COMPILATION_CACHE_DIR, or turned JAX's cache off with JAX_ENABLE_COMPILATION_CACHE=false.
    Machines with different processors have different folders: a program that is compiled for one
    may not run on the other. Programs are executed as they are read, so the folder must be the
    user's own. Where it is not, or cannot be written, there is no cache, and a word about it.

    Args:
        folder: Where to keep them; made if it is missing.
    """
    is_off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in _OFF
    if is_off or "jax" in sys.modules or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    path = folder / _processor()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        refused = next((why for each in (folder, path) if (why := _refusal(each))), None)
        if refused is None:
            _remove_oldest(path, MOST_BYTES)
    except OSError as error:
        refused = f"{error.filename or path}: {error.strerror or error}"
    if refused is not None:
        log.info("compiled programs are not kept: %s", refused)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", LEAST_SECONDS)


def _refusal(path: Path) -> str | None:
    """Why programs in a folder may not be used; None where they may."""
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users can write to {path}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written"
    return None


def _remove_oldest(folder: Path, most: int) -> None:
    """Remove the programs written first, so that the others have at most `most` bytes.

    XLA keeps folders of its own beside the programs on a GPU, which stay.
    """
    programs = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another job has removed it
            status = path.stat()
            programs.append((status.st_mtime, status.st_size, path))
    size = 0
    for _, each, path in sorted(programs, reverse=True):
        size += each
        if size > most:
            path.unlink(missing_ok=True)


def _processor() -> str:
    """A digest of the processor's features, which JAX's own key leaves out."""
    features = {platform.machine(), platform.processor()}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "flags", "Features"):
                features.add(value.strip())
    except OSError:  # not Linux
        pass
    return hashlib.sha256("\n".join(sorted(features)).encode()).hexdigest()[:16]
