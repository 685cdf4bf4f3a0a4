from pathlib import Path

import pytest

from experiments.multi30k import configuration


@pytest.mark.parametrize("text", ["bpe", "raw"])
@pytest.mark.parametrize("recipe", ["anchor", "cpu"])
def test_configurations(text, recipe):
    config = configuration(Path("data"), text, recipe, steps=None)
    assert config.train.checkpoint_each_epoch
    assert config.train.average_last == 10
    peak = config.optimizer.lr_factor / (128 * config.optimizer.warmup_steps) ** 0.5
    assert peak == pytest.approx({"anchor": 0.005, "cpu": 0.003}[recipe])
    assert (
        config.data.batch_tokens * config.optimizer.accumulate
        == {"anchor": 8192, "cpu": 2048}[recipe]
    )
