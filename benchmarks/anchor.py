"""Multi30k by its anchor's whole recipe (experiments.multi30k), one seed after the other."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed import TINY
from experiments.multi30k import ANCHOR, configuration, score
from experiments.runs import training_summary
from transformer_jax.run.train import train

__all__ = ["seeds"]

EPOCHS = 10  # the last ones are averaged
# Updates an epoch at most: 29,000 sentences in batches of 2 x 4,096 tokens.
EPOCH = 60


def seeds(
    output: Path, data: Path | None, tiny: bool, left: Callable[[], float]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Seed -> its scores, while the time `left` holds another run as long as the longest."""
    assert data is not None
    longest, seed = 0.0, 0
    while seed == 0 or left() > 1.1 * longest:
        before = left()
        found = _run(output / f"multi30k-{seed}", data, tiny, seed)
        longest = max(longest, before - left())
        yield seed, found | {"seconds": round(before - left(), 1)}
        seed += 1


def _run(folder: Path, data: Path, tiny: bool, seed: int) -> dict[str, Any]:
    config = configuration(data, "bpe", "anchor", 60 if tiny else None)
    if tiny:
        config = replace(config, model=replace(config.model, **TINY))
    steps = config.train.steps
    first = max(steps - EPOCHS * EPOCH, 1)
    options = replace(
        config.train, seed=seed, parallel="jit", log_every=min(50, first), evaluate_every=steps
    )
    for part in (
        replace(options, steps=first, checkpoint_every_epoch=False, checkpoint_every=steps),
        replace(options, checkpoint_every_epoch=True),
    ):
        train(replace(config, train=part), folder)
    found = training_summary(folder)
    bleu = score(data, "bpe", folder)
    return {**bleu, "anchor": ANCHOR, **{k: v for k, v in found.items() if k != "curve"}}
