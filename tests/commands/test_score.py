"""score says what the model gives a translation."""

from pathlib import Path

import numpy as np
import pytest

from tests.small_job import write_text
from transformer_jax import Translator


def test_score_prints_translator_scores(command, run, tmp_path):
    test = write_text(tmp_path / "test", 30, seed=3)
    shown = command("score", "--run-dir", run, "--test", *test)
    lines = [Path(path).read_text().splitlines() for path in test]
    expected = Translator.load(run).score(*lines)
    np.testing.assert_allclose([float(line) for line in shown.splitlines()], expected, atol=1e-4)


def test_score_equals_scores_of_the_search(command, run, tmp_path):
    """Without a length penalty: both are log-probabilities over the whole vocabulary."""
    lines = ["w1 w2", "w3 w1 w4", "w2"]
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    options = ["--length-penalty", "none", "--n-best", 3]
    shown = command("translate", "--run-dir", run, "--input", "in", *options).splitlines()
    rows = [line.split(" ||| ") for line in shown]
    assert len(rows) == 9
    (tmp_path / "src").write_text("".join(lines[int(row[0])] + "\n" for row in rows))
    (tmp_path / "tgt").write_text("".join(row[1] + "\n" for row in rows))
    again = command("score", "--run-dir", run, "--test", "src", "tgt").split()
    np.testing.assert_allclose(
        [float(row[2]) for row in rows], [float(score) for score in again], rtol=0, atol=2e-4
    )


def test_score_skips_and_names_long_pairs(run, caplog):
    translator = Translator.load(run)
    sources, targets = ["w1 w2", "w1", "w3"], ["W2 W1", "W1 " * 4096, "W3"]
    scores = translator.score(sources, targets, first=10)
    assert scores[::2] == translator.score(sources[::2], targets[::2])
    assert np.isnan(scores[1])
    assert "line 12 has 4097 tokens with EOS, more than the 4096 that can be" in caplog.text
    short = translator.perplexity(sources[::2], targets[::2])
    assert translator.perplexity(sources, targets) == pytest.approx(short, rel=1e-6)
    evaluation = translator.evaluate(sources, targets)
    assert (len(evaluation.translations), evaluation.perplexity) == (
        3,
        pytest.approx(short, rel=1e-6),
    )


def test_score_of_files_of_different_length_prints_nothing(command, run, tmp_path, capsys):
    (tmp_path / "src").write_text("w1\nw2\n")
    (tmp_path / "tgt").write_text("W1\n")
    with pytest.raises(SystemExit, match="src has 2 lines but tgt has 1"):
        command("score", "--run-dir", run, "--test", "src", "tgt")
    assert capsys.readouterr().out == ""
