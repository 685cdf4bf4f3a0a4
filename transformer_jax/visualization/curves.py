"""The learning curve of a run, drawn from its metrics.jsonl."""

import json
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["learning_curve"]


def learning_curve(run_dir: Path) -> Figure:
    """Training loss, validation loss (nats a token) and learning rate over the steps of a run.

    Training loss is that of the objective, label smoothing and dropout included; validation loss
    is without both, so it may lie below.
    """
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    # The last line may be half written, while the run goes on.
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    figure = Figure(figsize=(6, 4), layout="constrained")
    loss = figure.add_subplot()
    rate = loss.twinx()
    for axes, name, style in (
        (rate, "learning_rate", {"color": "0.6", "linewidth": 1, "label": "learning rate"}),
        (loss, "loss", {"color": "tab:blue", "label": "training loss"}),
        (loss, "validation_loss",
         {"color": "tab:orange", "label": "validation loss", "marker": "o", "markersize": 4}),
    ):  # fmt: skip
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points), **style)
    loss.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    rate.set(ylabel="learning rate", ylim=(0, None))
    figure.legend(
        handles=[*loss.get_lines(), *rate.get_lines()],
        loc="outside upper center", ncols=3, frameon=False,
    )  # fmt: skip
    loss.set_zorder(rate.get_zorder() + 1)
    loss.patch.set_visible(False)
    return figure
