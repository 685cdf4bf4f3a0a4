"""Memory that was freed stays with the process, so that the next step finds its pages there."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from transformer_jax.devices.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(7)
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 23)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode):
    done = subprocess.run(
        [sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=False
    )
    if done.returncode == 7:
        pytest.skip("no glibc here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_allocator_touches_pages_once():
    assert page_faults("kept") < page_faults("given back") / 10
