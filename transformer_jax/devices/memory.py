"""The memory of a device."""

import os
from pathlib import Path

import jax

__all__ = ["device_memory", "format_bytes", "free_memory"]


def device_memory() -> int:
    """Return the bytes of the first device; on a CPU, of the machine or its container."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return machine


def free_memory() -> int | None:
    """Return the bytes of the machine that are free now, for a CPU; None where it is not known."""
    if jax.default_backend() != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        [available] = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(available) * 1024
    except (OSError, ValueError):  # not Linux
        return None


def format_bytes(size: float) -> str:
    """Format a number of bytes as MB or GB.

    >>> format_bytes(1_500_000_000), format_bytes(42_000)
    ('1.50 GB', '0.04 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
