"""Numbers of torch.nn.Transformer and Hugging Face's Marian, for tests where neither is installed.

python -m tests.parity.golden        records them anew, beside this file, as the parity tests do
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.golden import PARAMETER, named
from transformer_jax import ModelConfig

__all__ = ["CONFIGS", "path_of"]

SMALL = ModelConfig(vocab_size=23, d_model=16, d_ff=24, num_heads=2, num_layers=1, dropout=0.0)
CONFIGS = {
    "torch": SMALL,
    "marian": replace(SMALL, position_encoding="concatenated", norm_epsilon=1e-5),
}


def path_of(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.npz")


def main() -> None:
    from tests.parity import test_marian, test_torch

    for name, module in (("torch", test_torch), ("marian", test_marian)):
        params, numbers = module.compare(CONFIGS[name])
        np.savez_compressed(path_of(name), **named(PARAMETER, params), **numbers)
        print(path_of(name))


if __name__ == "__main__":
    main()
