"""evaluate translates lines as they are."""

from transformer_jax import Translator


def test_evaluation_splits_no_line_that_fits(run, caplog):
    """Test sets of longer sentences than those trained on are translated as they are."""
    translator = Translator.load(run)
    lines = [" ".join(["w1 w2 w3"] * 4), "w1 . w2 . w3 ."]
    expected = translator.translate(lines, split_sentences="never")
    caplog.clear()
    assert translator.evaluate(lines, lines).translations == expected
    assert "pieces" not in caplog.text
