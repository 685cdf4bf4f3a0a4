"""The memory of a device: how much there is, and what is said where it does not suffice."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from transformer_jax.errors import UserError

__all__ = ["device_memory", "format_bytes", "oom_as_user_error"]


def device_memory() -> int:
    """Bytes of the first device; on a CPU those of the machine, or of its container."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return machine


def format_bytes(size: float) -> str:
    """
    >>> format_bytes(1_500_000_000), format_bytes(42_000)
    ('1.50 GB', '0.04 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


@contextlib.contextmanager
def oom_as_user_error(tokens: int) -> Iterator[None]:
    """Within, a device without memory left is a UserError, with what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the device's memory ({format_bytes(device_memory())}) does not hold a step of "
            f"batch_tokens {tokens}: start with fewer and more --accumulation-steps, as "
            "--fit-memory does"
        ) from None
