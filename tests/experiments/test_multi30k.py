import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import multi30k


@pytest.mark.parametrize("text", ["bpe", "raw"])
@pytest.mark.parametrize("recipe", ["anchor", "cpu"])
def test_configurations(text, recipe):
    config = multi30k.configuration(Path("data"), text, recipe, steps=None)
    assert config.train.checkpoint_every_epoch
    assert config.train.average_last == 10
    peak = config.optimizer.lr_factor / (128 * config.optimizer.warmup_steps) ** 0.5
    assert peak == pytest.approx({"anchor": 0.005, "cpu": 0.003}[recipe])
    assert (
        config.data.batch_tokens * config.optimizer.accumulation_steps
        == {"anchor": 8192, "cpu": 2048}[recipe]
    )


@pytest.mark.slow
@pytest.mark.parametrize("text", ["bpe", "raw"])
def test_multi30k_experiment_on_a_little_text(text, tmp_path, monkeypatch):
    """Files named as Multi30k's, two steps: trains, averages, scores and writes the record."""
    import random

    rng = random.Random(0)
    names = {
        "raw": (".", "train", "val", "test_2016_flickr"),
        "bpe": ("revisit-mmt-bpe", "train", "valid", "test.2016"),
    }[text]
    folder = tmp_path / names[0]
    folder.mkdir(exist_ok=True)
    whole = multi30k.configuration

    def narrow(*arguments):
        config = whole(*arguments)
        model = replace(config.model, vocab_size=500, d_model=16, d_ff=32, num_layers=1)
        return replace(config, model=model)

    monkeypatch.setattr(multi30k, "configuration", narrow)
    for name, count in zip(names[1:], (300, 40, 20)):
        # Words of eight letters: enough for a vocabulary of 500.
        lines = [
            " ".join("".join(rng.choices("abcdefghij", k=8)) for _ in range(8))
            for _ in range(count)
        ]
        for language in ("en", "de"):
            (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    arguments = f"--data {tmp_path} --run-dir {run} --recipe cpu --text {text} --steps 2"
    words = f"{arguments} --results-dir {tmp_path}".split()
    monkeypatch.setattr("sys.argv", ["multi30k", *words])
    multi30k.main()
    entry = json.loads((tmp_path / f"multi30k-{text}-cpu-2.json").read_text())
    record = entry["details"]
    assert [row[0] for row in entry["tables"][0]["rows"]][:-1] == list(record["scores"])
    assert record["checkpoint"] == "averaged at step 2"
    assert record["perplexity"] > 20  # nothing is learned
    assert set(record["scores"]) == (
        {"tokenized BLEU"} if text == "bpe" else {"BLEU", "chrF", "TER", "compound-split BLEU"}
    )
    assert record["curve"][-1]["step"] == 2
    assert record["median_input_wait_fraction"] is None  # two steps write no timings
