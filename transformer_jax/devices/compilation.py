"""A persistent cache of compiled programs, so that a second start does not compile again. Imports
no jax.
"""

import hashlib
import logging
import os
import platform
from pathlib import Path

__all__ = ["use_compilation_cache"]

log = logging.getLogger(__name__)

SETTINGS = {
    # Bytes beyond which the programs used longest ago are removed.
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 * 2**30),
    # Seconds of compiling below which a program is not worth a file.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}


def use_compilation_cache(folder: Path) -> None:
    """Let JAX keep compiled programs under a folder; call it before jax is imported.

    Nothing changes where the user has named a folder with JAX_COMPILATION_CACHE_DIR, or turned
    JAX's cache off with JAX_ENABLE_COMPILATION_CACHE=false. Machines with different processors have
    different folders: a program that is compiled for one may not run on the other. Where a folder
    cannot be written, there is no cache, and a word about it.

    Args:
        folder: Where to keep them; made if it is missing.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    path = folder / _processor()
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(path, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        log.info("compiled programs are not kept: %s cannot be written", path)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


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
