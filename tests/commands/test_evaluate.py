"""evaluate translates lines as they are."""

from tests.small_job import write_text
from transformer_jax import Translator
from transformer_jax.cli import main


def test_evaluation_splits_no_line_that_fits(run, caplog):
    """Test sets of longer sentences than those trained on are translated as they are."""
    translator = Translator.load(run)
    lines = [" ".join(["w1 w2 w3"] * 4), "w1 . w2 . w3 ."]
    expected = translator.translate(lines, split_sentences="never")
    caplog.clear()
    assert translator.evaluate(lines, lines).translations == expected
    assert "pieces" not in caplog.text


def test_evaluate_shows_progress(run, tmp_path, capsys):
    main(["evaluate", "--run-dir", str(run), "--test", *write_text(tmp_path / "test", 30, seed=3)])
    printed = capsys.readouterr()
    assert "BLEU" in printed.out
    assert "translating: 100%" in printed.err and "30/30" in printed.err
