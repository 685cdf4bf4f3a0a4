"""The memory of a device."""

import os
from pathlib import Path

import jax

__all__ = ["device_memory", "format_bytes"]


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


def format_bytes(size: float) -> str:
    """Format a number of bytes as MB or GB.

    >>> format_bytes(1_500_000_000), format_bytes(42_000)
    ('1.50 GB', '0.04 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
