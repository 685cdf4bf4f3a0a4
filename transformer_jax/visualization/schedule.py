"""The learning rate over a run's steps, as numbers and as a picture."""

import numpy as np
from matplotlib.figure import Figure

from transformer_jax.config import RunConfig
from transformer_jax.devices.settings import usual_settings
from transformer_jax.training.schedule import make_schedule

__all__ = ["rates", "schedule_curve"]


def rates(config: RunConfig) -> list[tuple[int, float]]:
    """(step, learning rate) at steps worth knowing: the first, the peak, the last, and between."""
    last, peak = config.train.steps, config.optimizer.warmup_steps
    even = (last * i // 10 for i in range(1, 11))
    rising = (peak * i // 4 for i in range(1, 5))
    steps = sorted({1, *(max(1, step) for step in (*even, *rising) if step <= last)})
    return list(zip(steps, _rates(config, np.array(steps))))


def schedule_curve(config: RunConfig) -> Figure:
    """The learning rate from step 1 to the last."""
    steps = np.unique(np.linspace(1, config.train.steps, 1000).astype(int))
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, _rates(config, steps))
    axes.axvline(config.optimizer.warmup_steps, color="0.7", linewidth=1)
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, config.train.steps), ylim=(0, None))
    return figure


@usual_settings()
def _rates(config: RunConfig, steps: np.ndarray) -> list[float]:
    optimizer = config.optimizer
    schedule = make_schedule(optimizer, config.model.d_model)
    return np.asarray(schedule(steps - 1)).tolist()
