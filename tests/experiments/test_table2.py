import gzip
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from experiments import table2_translation as table2
from tests.data.test_wmt import write_archives
from transformer_jax import Transformer, presets
from transformer_jax.data.text import TextFiles
from transformer_jax.errors import UserError

WORDS = ["ein", "Haus", "steht", "am", "Fluss", "und", "der", "alte", "Mann", "sieht", "es", "oft"]


@pytest.mark.parametrize("pair", ["en-de", "en-fr"])
@pytest.mark.parametrize("size", ["base", "big"])
def test_configurations_are_the_papers(pair, size, tmp_path):
    whole = table2.full(pair, size, None)
    assert (whole.data.dataset, whole.data.direction) == ("wmt14_translate", pair)
    assert whole.data.batch_tokens == 25_000
    assert whole.model.vocab_size == {"en-de": 37_000, "en-fr": 32_000}[pair]
    assert whole.model.dropout == (0.3 if (pair, size) == ("en-de", "big") else 0.1)
    assert whole.model.d_model == {"base": 512, "big": 1024}[size]
    train = whole.train
    assert (train.steps, train.checkpoint_every, train.average_last) == (
        (100_000, 1250, 5) if size == "base" else (300_000, 600, 20)
    )
    assert train.steps % train.checkpoint_every == 0  # those averaged are equally far apart
    assert (whole.optimizer.warmup_steps, whole.optimizer.label_smoothing) == (4000, 0.1)
    tokens = jnp.ones((2, 3), jnp.int32)
    model = Transformer(whole.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
    logits = jax.eval_shape(model.apply, shapes, tokens, tokens)
    assert logits.shape == (2, 3, whole.model.vocab_size)
    small = table2.scaled_config(pair, size, tmp_path, steps=400)
    assert small.train.average_last == train.average_last
    assert small.train.keep_last >= small.train.average_last
    # As many checkpoints as are averaged come before the end.
    assert 400 // small.train.checkpoint_every >= small.train.average_last


def at_hand(shared, monkeypatch):
    """Files as the scaled-down run finds them, with little in them."""
    corpus = table2.Corpus(
        [("news/a.en", "news/a.de"), ("bible/b.en.gz", "bible/b.de.gz")], ("dev/t.en", "dev/t.de")
    )
    for source, target in (*corpus.train, corpus.test):
        lines = [
            " ".join(WORDS[i % 7 : i % 7 + 3 + i % 3]) + f" {source[0]}{i}" for i in range(300)
        ]
        for name, text in ((source, "".join(f"{line}\n" for line in lines)),
                           (target, "".join(f"{line.upper()}\n" for line in lines))):  # fmt: skip
            path = shared / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = text.encode()
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    monkeypatch.setattr(table2, "LOCAL_CORPORA", {"en-de": corpus})


def test_table2_local_text(tmp_path, monkeypatch):
    at_hand(tmp_path, monkeypatch)
    news = tmp_path / "news" / "a.de"
    news.write_text(news.read_text().replace("\n", " \u2028x\n", 1).replace("EIN", "", 1))
    folder = table2.write_text(tmp_path / "text", tmp_path, "en-de")
    pairs = list(TextFiles(str(folder / "train.en"), str(folder / "train.de")))
    assert len(pairs) == 600
    assert "\u2028" in pairs[0][1]  # no end of line
    assert pairs[300] == ("ein Haus steht b0", "EIN HAUS STEHT B0")
    assert len(list(TextFiles(str(folder / "test.en"), str(folder / "test.de")))) == 300


def test_table2_local_files_exist(shared_data):
    for corpus in table2.LOCAL_CORPORA.values():
        for pair in (*corpus.train, corpus.test):
            assert all((shared_data / name).is_file() for name in pair)
        assert corpus.test not in corpus.train


def test_table2_rejects_unused_options(tmp_path):
    for words, said in (
        (["--data-dir", "x"], "--data-dir x is of --full"),
        (["--reduced", str(tmp_path / "none")], "none: no such file"),
        (["--steps", "0"], "--steps 0 must be positive"),
    ):
        with pytest.raises(UserError, match=said):
            table2.parse(words)


def test_table2_reduced_test_set(tmp_path):
    file = tmp_path / "wmt14.en"
    file.write_text("c\na\n")
    assert table2.reduced(["a", "b", "c", "a"], file) == [2, 0]
    file.write_text("a\nz\n")
    with pytest.raises(UserError, match=r"wmt14.en: line 2 is not in the test set \(1 are not\)"):
        table2.reduced(["a", "b"], file)


def scores(value):
    names = ("BLEU", "Moses-tokenized BLEU", "compound-split BLEU")
    found = {
        name + suffix: {"value": value + i, "signature": "s"}
        for i, name in enumerate(names)
        for suffix in ("", ", lower-cased")
    }
    return {"checkpoint": "c", "perplexity": 5.0, "scores": found}


def test_table2_effect_of_each_setting():
    found = {name: scores(20.0 - i) for i, name in enumerate(table2.DECODING_SETTINGS)}
    found["as in the paper"]["scores"]["BLEU on the reduced set"] = {"value": 20.5, "signature": ""}
    for choice in list(found)[1:]:
        found[choice]["scores"]["BLEU on the reduced set"] = {"value": 0.0, "signature": ""}
    whole, adds = table2.tables(found, "en-de", "base", is_full=True)
    paper = {row[0]: row[1] for row in whole.rows}
    assert paper["compound-split BLEU"] == 27.3
    assert [name for name, value in paper.items() if value is not None] == ["compound-split BLEU"]
    assert dict(adds.rows) == {
        "no averaging -> as in the paper": 1.0,
        "no length penalty -> as in the paper": 2.0,
        "greedy -> as in the paper": 3.0,
        "compounds whole -> split (Moses tokens)": 1.0,
        "sacreBLEU -> the paper's BLEU": 2.0,
        "cased -> lower-cased": 0.0,
        "sacreBLEU: the whole set -> the reduced one": 0.5,
    }
    scaled, _ = table2.tables(found, "en-de", "base", is_full=False)
    assert {row[1] for row in scaled.rows} == {None}


def go(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["table2", *map(str, words)])
    table2.main()


@pytest.mark.slow
def test_table2_scaled_down_run(tmp_path, monkeypatch, capsys):
    at_hand(tmp_path, monkeypatch)
    monkeypatch.setattr(table2, "PIECES", 300)
    monkeypatch.setattr(table2, "SCORED", 3)
    original = table2.scaled_config

    def narrow(*arguments):
        config = original(*arguments)
        return replace(config, model=replace(config.model, d_model=16, d_ff=32, num_layers=1))

    monkeypatch.setattr(table2, "scaled_config", narrow)
    places = ("--shared", tmp_path, "--output", tmp_path / "runs", "--results-dir", tmp_path)
    (tmp_path / "part.en").write_text(
        "\n".join((tmp_path / "dev/t.en").read_text().split("\n")[:3])
    )
    go(monkeypatch, "--steps", 8, "--reduced", tmp_path / "part.en", *places)
    shown = capsys.readouterr().out
    assert "| compound-split BLEU | - |" in shown and "sacreBLEU -> the paper's BLEU" in shown
    entry = json.loads((tmp_path / "table2-en-de-base-small-8.json").read_text())
    choices = entry["details"]["choices"]
    assert choices["as in the paper"]["checkpoint"] == "averaged at step 8"
    assert choices["no averaging"]["checkpoint"] == "step 8"
    assert choices["as in the paper"]["perplexity"] != choices["no averaging"]["perplexity"]
    assert len(choices["greedy"]["scores"]) == 12
    assert entry["details"]["steps"] == 8


@pytest.mark.slow
def test_table2_full_run_in_small(tmp_path, monkeypatch, capsys):
    """--full from WMT's archives to the ledger; only the widths are less than the paper's."""
    archives = write_archives(tmp_path, monkeypatch)
    full = table2.full

    def narrow(*arguments):
        config = full(*arguments)
        model = replace(presets.tiny(300), d_model=16, d_ff=32, num_layers=1)
        return replace(config, model=model, data=replace(config.data, batch_tokens=512))

    monkeypatch.setattr(table2, "full", narrow)
    go(monkeypatch, "--full", "--steps", 2, "--data-dir", archives,
       "--output", tmp_path / "runs", "--results-dir", tmp_path)  # fmt: skip
    entry = json.loads((tmp_path / "table2-en-de-base-full-2.json").read_text())
    # Two updates are not the paper's run: its number does not stand beside them.
    assert "| compound-split BLEU | - |" in capsys.readouterr().out
    assert entry["where"]["command"].endswith("--pair en-de --size base --full --steps 2")
    assert entry["missing"].startswith("99,998 of 100,000 updates")
    assert "2 updates, 5 sentences of newstest2014" in entry["title"]
