"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017) in JAX and Flax."""

import importlib

__version__ = "0.2.0.dev0"

# Public name -> module that holds it. Resolved on first use, so that `import transformer_jax`
# and the command line's --help cost nothing.
_HOME = {
    "UserError": "errors",
    "ModelConfig": "config",
    "OptimizerConfig": "config",
    "DataConfig": "config",
    "TrainConfig": "config",
    "RunConfig": "config",
    "Transformer": "models.transformer",
    "Encoder": "models.transformer",
    "Decoder": "models.transformer",
    "Masks": "models.transformer",
    "Segments": "models.transformer",
    "Family": "models.families",
    "FAMILIES": "models.families",
    "build_model": "models.families",
    "name_axes": "models.dimensions",
    "TextFiles": "data.text",
    "Layout": "devices.layout",
    "make_layout": "devices.layout",
    "Processes": "devices.processes",
    "distributed_session": "devices.processes",
    "Search": "decoding.options",
    "generate": "decoding.generate",
    "beam_search": "decoding.beam",
    "BeamResult": "decoding.beam",
    "greedy_search": "decoding.greedy",
    "sample": "decoding.sampling",
    "Generated": "decoding.rows",
    "make_search_step": "decoding.step",
    "warmup_schedule": "training.schedule",
    "make_optimizer": "training.optimizer",
    "TrainState": "training.state",
    "make_step": "training.step",
    "make_runner": "training.runners",
    "SingleDeviceRunner": "training.runners",
    "PmapRunner": "training.runners",
    "MeshRunner": "training.runners",
    "MetricsWriter": "training.metrics",
    "train_loop": "training.loop",
    "Task": "tasks",
    "TASKS": "tasks",
    "Run": "run.folder",
    "load_variables": "run.variables",
    "train": "run.train",
    "average": "run.average",
    "dataset_splits": "run.splits",
    "Parser": "parser",
    "Translator": "translator",
    "Translation": "results",
    "Evaluation": "results",
    "AttentionMaps": "results",
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
