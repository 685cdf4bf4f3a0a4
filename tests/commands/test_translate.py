"""translate takes lines as they come."""

import codecs
import gzip
import io
import json
import lzma
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.small_job import ENVIRONMENT
from transformer_jax import Translator
from transformer_jax.data.corpus import LineStatistics
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run


def test_translate_files(command, run, tmp_path):
    (tmp_path / "in").write_text("w1 w2\n\nw3\n")
    assert command("translate", "--run-dir", run, "--input", "in", "--output", "out") == ""
    expected = Translator.load(run).translate(["w1 w2", "", "w3"])
    assert (tmp_path / "out").read_text().split("\n") == [*expected, ""]


def test_translate_computes_in_the_dtype_asked_for(command, run, tmp_path):
    """Whatever the run was trained in; None is that, and scores are off by roundings alone."""
    lines = ["w1 w2", "w3 w4 w5"]
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in lines))
    options = ("--run-dir", run, "--input", "in", "--scores", "--dtype", "bfloat16")
    shown = command("translate", *options)
    narrow, wide = Translator.load(run, dtype="bfloat16"), Translator.load(run)
    assert (narrow.model.config.dtype, wide.model.config.dtype) == ("bfloat16", "float32")
    found = [each[0] for each in narrow.translations(lines)]
    assert shown == "".join(f"{i} ||| {t.text} ||| {t.score:.4f}\n" for i, t in enumerate(found))
    targets = [each.text for each in found]
    scores = [np.array(each.score(lines, targets)) for each in (narrow, wide)]
    np.testing.assert_allclose(*scores, rtol=0.02)
    assert np.any(scores[0] != scores[1])
    assert narrow.model.config.kernels == "compact"  # definitions are slow in it
    with pytest.raises(UserError, match="dtype 'int8'"):
        Translator.load(run, dtype="int8")  # type: ignore[arg-type]


def test_translate_scores_of_single_translations(command, run, tmp_path):
    (tmp_path / "in").write_text("w1 w2\n\nw3\n")
    shown = command("translate", "--run-dir", run, "--input", "in", "--scores").splitlines()
    found = Translator.load(run).translations(["w1 w2", "w3"])
    assert shown[0] == f"0 ||| {found[0][0].text} ||| {found[0][0].score:.4f}"
    assert [line.split(" ||| ")[0] for line in shown] == ["0", "1", "2"]
    assert shown[1] == "1 |||  ||| 0.0000"  # an empty line has its row
    shown = command("translate", "--run-dir", run, "--input", "in", "--n-best", 2).splitlines()
    assert [line.split(" ||| ")[0] for line in shown] == ["0", "0", "1", "2", "2"]


def test_translate_reports_lines_without_finite_score(run, caplog):
    translator = Translator.load(run)
    params = jax.tree.map(lambda x: x * np.nan, translator.params)
    broken = Translator(translator.model, params, translator.vocabulary, max_length=16)
    assert broken.translate(["", "w1 w2"]) == ["", ""]
    assert "line 2: nothing in it has a finite score" in caplog.text


def test_translate_splits_long_lines(run, caplog):
    """No line that this run was trained on has more than 5 tokens and EOS; it took up to 15."""
    translator = Translator.load(run)
    short, long = "w1 w2", " ".join(["w1 w2 w3"] * 7)
    one, whole, empty = translator.translate([short, long, ""], beam_size=1)
    assert (one, empty) == (translator.translate([short], beam_size=1)[0], "")
    tokens = long.split()
    pieces = [" ".join(tokens[first : first + 5]) for first in range(0, 21, 5)]
    assert whole == " ".join(translator.translate(pieces, beam_size=1))
    assert "line 2 has 21 tokens, the model was trained on at most 5" in caplog.text
    assert "translated in 5 pieces" in caplog.text
    caplog.clear()
    [whole] = translator.translate([long], beam_size=1, split_sentences="never")
    pieces = [" ".join(tokens[:15]), " ".join(tokens[15:])]
    assert whole == " ".join(translator.translate(pieces, beam_size=1, split_sentences="never"))
    assert "trained on at most 15: translated in 2 pieces" in caplog.text


def test_translate_splits_sentences(run, caplog):
    """This run's lines hold one sentence each; `.` ends one here as in any text."""
    translator = Translator.load(run)
    assert Run.open(run).lines == LineStatistics(sentences_per_line=1, max_tokens=6)
    line, parts = "w1 w2. w3! w4?", ["w1 w2.", "w3!", "w4?"]
    apart = " ".join(translator.translate(parts, beam_size=1))
    assert translator.translate([line], beam_size=1) == [apart]
    assert "line 1 holds 3 sentences" in caplog.text
    two = translator.translate(["w1 w2. w3!"], beam_size=1)  # one more than its lines hold
    assert two == [" ".join(translator.translate(parts[:2], beam_size=1))]
    never = translator.translate([line], beam_size=1, split_sentences="never")
    tree = json.loads((run / "config.json").read_text())
    del tree["source_lines"]  # a run from before
    (run / "config.json").write_text(json.dumps(tree))
    translator = Translator.load(run)
    assert translator.translate([line], beam_size=1) == never
    assert translator.translate([line], beam_size=1, split_sentences="always") == [apart]
    with pytest.raises(UserError, match="split_sentences 'no' is not one of auto, always, never"):
        translator.translate([line], split_sentences="no")


def test_translate_samples_each_sentence_of_a_line(run):
    translator = Translator.load(run)
    options = {"method": "sample", "seed": 3, "extra_length": 3}
    [one] = translator.translate(["w1 w2."], **options)
    [three] = translator.translate(["w1 w2. w1 w2. w1 w2."], **options)
    assert three.startswith(one)
    assert three != " ".join([one] * 3)


def test_translate_scores_of_empty_lines(run):
    translator = Translator.load(run)
    translator._inference.variables = {
        "params": jax.tree.map(lambda p: p * np.nan, translator.params)
    }
    written = io.BytesIO()
    translator.translate_stream(
        io.BytesIO(b"w1\n\n"), written, Search(), name="in", line_by_line=False, scores=True
    )
    assert written.getvalue() == b"0 |||  ||| -inf\n1 |||  ||| 0.0000\n"


def test_translate_has_one_translation_of_a_line_and_known_options(run):
    translator = Translator.load(run)
    with pytest.raises(UserError, match="not n_best 2: call translations"):
        translator.translate(["w1"], beam_size=2, n_best=2)
    assert len(translator.translations(["w1"], beam_size=2, n_best=2)[0]) == 2
    with pytest.raises(TypeError, match="'beam' is not an option of Search; did you mean 'beam_"):
        translator.translate(["w1"], beam=2)


def test_translate_keeps_blank_lines_empty(run):
    translator = Translator.load(run)
    blanks = ["", " ", "\t", "\u00a0", "\u200b", "\u3000", "\r"]
    assert translator.translate([*blanks, "w1"])[:-1] == [""] * len(blanks)


def test_translate_accepts_any_iterable_of_lines(run):
    translator = Translator.load(run)
    expected = translator.translate(["w1 w2", "w3"])
    assert translator.translate(line for line in ("w1 w2", "w3")) == expected
    assert translator.translate(("w1 w2", "w3")) == expected
    for wrong in ("w1 w2", b"w1"):
        with pytest.raises(TypeError, match="give a list of lines"):
            translator.translate(wrong)


def test_translate_compressed_text(command, run, tmp_path):
    (tmp_path / "in").write_bytes(gzip.compress(codecs.BOM_UTF8 + b"w1 w2\nw3\n"))
    command("translate", "--run-dir", run, "--input", "in", "--output", "out.xz")
    expected = "".join(f"{t}\n" for t in Translator.load(run).translate(["w1 w2", "w3"]))
    assert lzma.decompress((tmp_path / "out.xz").read_bytes()).decode() == expected
    with open("in", "rb") as packed:
        line = [sys.executable, "-m", "transformer_jax", "translate", "--run-dir", run]
        done = subprocess.run(line, stdin=packed, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == expected


def test_translate_line_buffered_answers_each_line(run):
    line = [sys.executable, "-m", "transformer_jax", "translate", "--run-dir", run]
    lines = ["w1 w2", "", "w3"]
    with subprocess.Popen(
        [*line, "--line-buffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, bufsize=1, env=ENVIRONMENT,
    ) as program:  # fmt: skip
        for text, expected in zip(lines, Translator.load(run).translate(lines)):
            program.stdin.write(f"{text}\n")
            assert program.stdout.readline() == f"{expected}\n"
        program.stdin.close()
        assert program.wait(60) == 0


def test_translator_refuses_pickling(run):
    with pytest.raises(TypeError, match=r"call Translator\.load there"):
        pickle.dumps(Translator.load(run))
