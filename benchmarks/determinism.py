"""Does a device compute a training run twice alike, and a killed one as one that is not?

The same job of 30 updates runs twice whole and once with a kill, each part in a process of its own,
and all that their last checkpoints hold is compared.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.speed import TINY
from transformer_jax import presets
from transformer_jax.tools.verification import read_fingerprints, run_to_end, verify_resume

__all__ = ["FLAGS", "repeated"]

UPDATES = 30
# XLA chooses the fastest of several kernels again in each process that compiles; the cache of
# compiled programs keeps what was chosen.
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
FLAGS = {
    "deterministic-cached": DETERMINISTIC,
    "default": UNCACHED,
    "cached": {},
    "deterministic": DETERMINISTIC | UNCACHED,
}


def repeated(folder: Path, environment: dict[str, str], tiny: bool) -> dict[str, Any]:
    """What differs between two whole runs, and between one of them and a killed one."""
    config = presets.run_config("tiny")
    config = replace(config, data=replace(config.data, max_batch_shapes=1))
    if tiny:
        config = replace(config, model=replace(config.model, **TINY))
    with mock.patch.dict(os.environ, environment):
        verdict = verify_resume(config, folder, updates=UPDATES, kills=1)
        run_to_end(folder, "again")
    whole, again = (read_fingerprints(folder / name) for name in ("whole", "again"))
    return {
        "environment": environment,
        "updates": UPDATES,
        "killed after": verdict.kills,
        "whole runs differ in": [name for name in whole if whole[name] != again[name]],
        "killed run differs in": [
            n for n, (left, right) in verdict.values.items() if left != right
        ],
    }
