"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017) in JAX and Flax."""

import importlib

__version__ = "0.1.0"

# Public name -> module that holds it. Resolved on first use, so that `import transformer_jax`
# and the command line's --help cost nothing.
_HOME = {
    "ModelConfig": "config",
    "OptimizerConfig": "config",
    "DataConfig": "config",
    "TrainConfig": "config",
    "RunConfig": "config",
    "Transformer": "models.transformer",
    "Encoder": "models.transformer",
    "Decoder": "models.transformer",
    "Search": "decoding.options",
    "generate": "decoding.generate",
    "make_step": "training.step",
    "JitStep": "training.runners",
    "Recorder": "training.metrics",
    "train_loop": "training.loop",
    "train": "run.train",
    "Translator": "translator",
}
_MODULES = {"functional": "functional", "presets": "config.presets"}

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
