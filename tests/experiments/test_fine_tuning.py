import json
import random
from dataclasses import replace

import pytest

from experiments import fine_tuning, multi30k
from transformer_jax.run.folder import Run


def write_corpus(folder, seed, sizes):
    rng = random.Random(seed)
    folder.mkdir()
    for name, count in sizes.items():
        lines = [
            " ".join("".join(rng.choices("abcdefghij", k=8)) for _ in range(8))
            for _ in range(count)
        ]
        for language in ("en", "de"):
            (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_fine_tuning_from_end_to_end(tmp_path, monkeypatch):
    """Two corpora of random words: every way is trained and scored on both, again from where it
    stopped."""
    whole = multi30k.configuration

    def narrow(*arguments):
        config = whole(*arguments)
        model = replace(config.model, vocab_size=500, d_model=16, d_ff=32, num_layers=1)
        return replace(config, model=model, data=replace(config.data, max_batch_shapes=1))

    monkeypatch.setattr(multi30k, "configuration", narrow)
    monkeypatch.setattr(fine_tuning, "HELD_OUT", 30)
    monkeypatch.setattr(fine_tuning, "LAST", 50)
    monkeypatch.setattr(fine_tuning, "FRESH_TYPES", 300)
    monkeypatch.setattr(fine_tuning, "SHAPES", 1)
    old = write_corpus(tmp_path / "old", 0, {"train": 300, "val": 50})
    sizes = {"train": 130, "val": 20, "test_2016_flickr": 10}
    new = write_corpus(tmp_path / "new", 1, sizes)
    output = tmp_path / "output"
    words = f"--old {old} --new {new} --steps 2 --tuning-steps 2 --pairs 40 --output {output}"
    monkeypatch.setattr("sys.argv", ["fine_tuning", *words.split()])
    fine_tuning.main()
    entry = json.loads((output / "fine_tuning.json").read_text())
    [table] = entry["tables"]
    assert [row[0] for row in table["rows"]] == [
        "trained on the old text", "the same, out and in", "fine-tuned",
        "fine-tuned, old text 1:1", "fine-tuned, encoder and table frozen", "fresh",
    ]  # fmt: skip
    assert "100.0% of the translations of the old text are the same" in entry["missing"]
    found = entry["details"]["found"]
    # Every third of 120 pairs; with old text they stand there 7 times, beside 280 old pairs.
    assert [each.get("pairs") for each in found.values()] == [300, None, 40, 560, 40, 40]
    assert found["fine-tuned"]["old"]["checkpoint"] == "step 2"
    lines = (output / "new.en").read_text().splitlines()
    assert lines == (new / "train.en").read_text().splitlines()[:120:3]
    runs = {name: Run.open(output / name) for name in ("imported", "fine-tuned", "fresh")}
    kept, tuned, fresh = (run.vocabularies.source.to_bytes() for run in runs.values())
    assert kept == tuned != fresh
    assert runs["imported"].origin.format == "huggingface"
    assert Run.open(output / "fine-tuned-encoder-and-table-frozen").config.optimizer.frozen
