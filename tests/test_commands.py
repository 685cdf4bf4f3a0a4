"""Commands on the run of a small job, in this process; tests/test_cli.py has the real one."""

import codecs
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from tests.run.test_recovery import damage
from tests.small_job import ENVIRONMENT, write_text
from transformer_jax import RunConfig, Translator, presets
from transformer_jax.cli import main
from transformer_jax.commands.options import check_writable
from transformer_jax.data.corpus import Lines
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.folder import Run
from transformer_jax.run.inspect import report


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the whole run, which may be changed."""
    return shutil.copytree(whole[2].folder, tmp_path / "run")


@pytest.fixture
def command(capsys):
    """What a command prints."""

    def command(*arguments):
        capsys.readouterr()
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return command


def test_inspect_shows_fields_parameters_and_checkpoints(command, run):
    shown = command("inspect", "--run-dir", run).splitlines()
    assert "model.d_model = 16" in shown
    assert "optimizer.warmup_steps = 20" in shown
    vocabulary = len(Translator.load(run).vocabulary)
    [table] = [line for line in shown if line.startswith("embedding")]
    assert table.split() == ["embedding", str(vocabulary), "x", "16", f"{vocabulary * 16:,}"]
    params = Translator.load(run).params
    [total] = [line for line in shown if line.startswith("all ")]
    assert total.split()[1] == f"{sum(x.size for x in jax.tree.leaves(params)):,}"
    assert [line.split(",")[0] for line in shown if line.startswith("checkpoints/")] == [
        f"checkpoints/{step}: sound"
        for step in (6, 12, 18, 24)
        if (run / f"checkpoints/{step}").exists()
    ]
    assert "averaged/24: sound, mean of 18, 24" in shown
    damage(run / "checkpoints" / "24", "flipped")
    assert "checkpoints/24: DAMAGED: " in command("inspect", "--run-dir", run)


def test_inspect_knows_what_a_job_replaces_meanwhile(run, monkeypatch):
    """A step that was listed and is gone when it is read has not been damaged."""
    restore = Checkpoints.restore

    def replaced(self, step, templates):
        shutil.rmtree(run / "checkpoints" / "12", ignore_errors=True)
        return restore(self, step, templates)

    monkeypatch.setattr(Checkpoints, "restore", replaced)
    shown = report(run)
    assert "checkpoints/24: sound" in shown
    assert "checkpoints/12" not in shown


def test_inspect_shows_what_differs(command, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    assert "differ in nothing" in command("inspect", "--run-dir", run, "--other", other)
    tree = json.loads((other / "config.json").read_text())
    tree["config"]["model"]["d_ff"] = 31
    tree["config"]["optimizer"]["beta2"] = 0.9
    (other / "config.json").write_text(json.dumps(tree))
    shown = command("inspect", "--run-dir", run, "--other", other).splitlines()
    assert shown[:2] == [
        f"model.d_ff: 32 in {run}, 31 in {other}",
        f"optimizer.beta2: 0.98 in {run}, 0.9 in {other}",
    ]
    assert len([line for line in shown if line.startswith("parameter ")]) == 2 * 3


def test_schedule_shows_the_peak_and_draws_it(command, tmp_path):
    picture = tmp_path / "rate.png"
    shown = command("schedule", "--preset", "base", "--output", picture).splitlines()[1:-1]
    rates = {int(step): float(rate) for step, rate in map(str.split, shown)}
    assert rates[1] == pytest.approx(512**-0.5 * 4000**-1.5, rel=1e-5)
    assert max(rates, key=rates.get) == 4000
    assert rates[100_000] == pytest.approx(512**-0.5 * 100_000**-0.5, rel=1e-5)
    assert imread(picture).std() > 0.01


def test_score_prints_what_the_translator_says(command, run, tmp_path):
    test = write_text(tmp_path / "test", 30, seed=3)
    shown = command("score", "--run-dir", run, "--test", *test)
    lines = [Path(path).read_text().splitlines() for path in test]
    expected = Translator.load(run).score(*lines)
    np.testing.assert_allclose([float(line) for line in shown.splitlines()], expected, atol=1e-4)


def test_average_of_chosen_checkpoints(command, run):
    steps = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]
    command("average", "--run-dir", run, "--steps", min(steps), max(steps))
    found, *parts = (
        Translator.load(run, name).params for name in ("averaged", str(min(steps)), str(max(steps)))
    )
    for mean, first, last in zip(*map(jax.tree.leaves, (found, *parts))):
        np.testing.assert_allclose(mean, (first + last) / 2, atol=1e-7)
    # The oldest alone is what the run translates with from now on, until it is trained further.
    command("average", "--run-dir", run, "--steps", min(steps))
    assert Translator.load(run).checkpoint == f"averaged at step {min(steps)}"


def test_a_damaged_checkpoint_is_left_out_of_the_average(command, run, caplog):
    damage(run / "checkpoints" / "18", "flipped")
    assert "mean of 12, 24" in command("average", "--run-dir", run, "--last", 3)
    assert "checkpoints/18: " in caplog.text
    assert "averaged without it" in caplog.text
    for step in (6, 12, 24):
        damage(run / "checkpoints" / str(step), "flipped")
    with pytest.raises(SystemExit, match="has no sound checkpoint: no parameters to average"):
        command("average", "--run-dir", run)
    assert "averaged/24: sound, mean of 12, 24" in command("inspect", "--run-dir", run)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_attention_is_drawn(command, run, tmp_path, kind):
    picture = tmp_path / f"a.{kind}"
    options = ["--source", "w1 w2 w3", "--target", "W3 W2", "--layer", 1, "--head", 2]
    assert command("attention", "--run-dir", run, *options, "--output", picture) == f"{picture}\n"
    if kind == "png":
        assert imread(picture).std() > 0.01
    else:
        assert "<svg" in picture.read_text()
    for wrong, message in (
        (["--head", 3], "head 3: the model has heads 1 to 2"),
        (["--layer", 0], "layer 0: the model has layers 1 to 1"),
        (["--output", "a.txt"], "a.txt is no picture that can be written"),
        (["--output", "no/a.png"], "there is no folder .*no: make it first"),
    ):
        with pytest.raises(SystemExit, match=message):
            command("attention", "--run-dir", run, "--source", "w1", *wrong)


def test_files_are_translated(command, run, tmp_path):
    (tmp_path / "in").write_text("w1 w2\n\nw3\n")
    assert command("translate", "--run-dir", run, "--input", "in", "--output", "out") == ""
    expected = Translator.load(run).translate(["w1 w2", "", "w3"])
    assert (tmp_path / "out").read_text().split("\n") == [*expected, ""]


def test_scores_of_one_translation_each(command, run, tmp_path):
    (tmp_path / "in").write_text("w1 w2\n\nw3\n")
    shown = command("translate", "--run-dir", run, "--input", "in", "--scores").splitlines()
    found = Translator.load(run).translations(["w1 w2", "w3"])
    assert shown[0] == f"0 ||| {found[0][0].text} ||| {found[0][0].score:.4f}"
    assert [line.split(" ||| ")[0] for line in shown] == ["0", "1", "2"]
    assert shown[1] == "1 |||  ||| 0.0000"  # an empty line has its row
    shown = command("translate", "--run-dir", run, "--input", "in", "--n-best", 2).splitlines()
    assert [line.split(" ||| ")[0] for line in shown] == ["0", "0", "1", "2", "2"]


def test_scores_of_a_search_are_those_of_score(command, run, tmp_path):
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


def test_a_line_without_a_finite_score_is_told(run, caplog):
    translator = Translator.load(run)
    params = jax.tree.map(lambda x: x * np.nan, translator.params)
    broken = Translator(translator.model, params, translator.vocabulary, max_length=16)
    assert broken.translate(["", "w1 w2"]) == ["", ""]
    assert "line 2: nothing in it has a finite score" in caplog.text


def test_a_long_line_is_translated_in_pieces(run, caplog):
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


def test_evaluation_splits_no_line_that_fits(run, caplog):
    """Test sets of longer sentences than those trained on are translated as they are."""
    translator = Translator.load(run)
    lines = [" ".join(["w1 w2 w3"] * 4), "w1 . w2 . w3 ."]
    expected = translator.translate(lines, split_sentences="never")
    caplog.clear()
    assert translator.evaluate(lines, lines).translations == expected
    assert "pieces" not in caplog.text


def test_what_is_too_long_to_score_is_named_and_left_out(run, caplog):
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


def test_lines_of_several_sentences(run, caplog):
    """This run's lines hold one sentence each; `.` ends one here as in any text."""
    translator = Translator.load(run)
    assert Run.open(run).lines == Lines(sentences_per_line=1, max_tokens=6)
    line, parts = "w1 w2. w3! w4?", ["w1 w2.", "w3!", "w4?"]
    apart = " ".join(translator.translate(parts, beam_size=1))
    assert translator.translate([line], beam_size=1) == [apart]
    assert "line 1 holds 3 sentences" in caplog.text
    two = translator.translate(["w1 w2. w3!"], beam_size=1)  # one more than its lines hold
    assert two == [" ".join(translator.translate(parts[:2], beam_size=1))]
    never = translator.translate([line], beam_size=1, split_sentences="never")
    tree = json.loads((run / "config.json").read_text())
    del tree["lines"]  # a run from before
    (run / "config.json").write_text(json.dumps(tree))
    translator = Translator.load(run)
    assert translator.translate([line], beam_size=1) == never
    assert translator.translate([line], beam_size=1, split_sentences="always") == [apart]
    with pytest.raises(UserError, match="split_sentences 'no' is none of auto, always, never"):
        translator.translate([line], split_sentences="no")


def test_sentences_of_a_line_draw_samples_of_their_own(run):
    translator = Translator.load(run)
    options = {"method": "sample", "seed": 3, "extra_length": 3}
    [one] = translator.translate(["w1 w2."], **options)
    [three] = translator.translate(["w1 w2. w1 w2. w1 w2."], **options)
    assert three.startswith(one)
    assert three != " ".join([one] * 3)


def test_what_has_no_translation_has_no_score_of_a_sure_one(run):
    translator = Translator.load(run)
    translator._inference.variables = {
        "params": jax.tree.map(lambda p: p * np.nan, translator.params)
    }
    written = io.BytesIO()
    translator.translate_stream(
        io.BytesIO(b"w1\n\n"), written, Search(), name="in", line_by_line=False, scores=True
    )
    assert written.getvalue() == b"0 |||  ||| -inf\n1 |||  ||| 0.0000\n"


def test_an_output_may_be_a_pipe(tmp_path):
    read, written = os.pipe()
    check_writable(Path(f"/dev/fd/{written}"))
    check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    os.close(read)
    os.close(written)


def test_blank_lines_stay_empty_whatever_they_hold(run):
    translator = Translator.load(run)
    blanks = ["", " ", "\t", "\u00a0", "\u200b", "\u3000", "\r"]
    assert translator.translate([*blanks, "w1"])[:-1] == [""] * len(blanks)


def test_any_iterable_of_lines_is_translated(run):
    translator = Translator.load(run)
    expected = translator.translate(["w1 w2", "w3"])
    assert translator.translate(line for line in ("w1 w2", "w3")) == expected
    assert translator.translate(("w1 w2", "w3")) == expected
    for wrong in ("w1 w2", b"w1"):
        with pytest.raises(TypeError, match="give a list of lines"):
            translator.translate(wrong)


def test_packed_text_is_translated_and_written(command, run, tmp_path):
    (tmp_path / "in").write_bytes(gzip.compress(codecs.BOM_UTF8 + b"w1 w2\nw3\n"))
    command("translate", "--run-dir", run, "--input", "in", "--output", "out.xz")
    expected = "".join(f"{t}\n" for t in Translator.load(run).translate(["w1 w2", "w3"]))
    assert lzma.decompress((tmp_path / "out.xz").read_bytes()).decode() == expected
    with open("in", "rb") as packed:
        line = [sys.executable, "-m", "transformer_jax", "translate", "--run-dir", run]
        done = subprocess.run(line, stdin=packed, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == expected


def test_a_program_is_answered_line_by_line(run):
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


def test_a_translator_says_why_it_is_not_pickled(run):
    with pytest.raises(TypeError, match=r"call Translator\.load there"):
        pickle.dumps(Translator.load(run))


def test_a_configuration_is_printed_and_read_again(command, run):
    printed = command(
        "train", "--run-dir", "new", "--preset", "tiny", "--d-ff", 99, "--print-config"
    )
    config = RunConfig.from_json(printed)
    assert config.model.d_ff == 99
    assert config.data == presets.recipe("tiny").data
    Path("given.json").write_text(printed)
    options = ["--config", "given.json", "--num-heads", 2, "--print-config"]
    again = RunConfig.from_json(command("train", "--run-dir", "new", *options))
    assert (again.model.d_ff, again.model.num_heads) == (99, 2)
    from_run = command(
        "train", "--run-dir", "new", "--config", run / "config.json", "--print-config"
    )
    assert RunConfig.from_json(from_run).optimizer.warmup_steps == 20
    assert not Path("new").exists()
    with pytest.raises(SystemExit, match="give one of them"):
        command("train", "--run-dir", "new", "--config", "given.json", "--preset", "tiny")
    Path("given.json").write_text(printed.replace('"d_ff"', '"dff"'))
    with pytest.raises(
        SystemExit, match=r"given.json is no configuration: model has no field 'dff'"
    ):
        command("train", "--run-dir", "new", "--config", "given.json")


def test_a_reader_that_goes_ends_the_command(run, tmp_path):
    """As in `transformer-jax translate ... | head -1`."""
    (tmp_path / "in").write_text("w1 w2\n" * 3000)
    line = f"{sys.executable} -m transformer_jax.cli translate --run-dir {run} --method greedy"
    script = f"{line} < in | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert done.returncode == 128 + signal.SIGPIPE
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.splitlines()[-1] == "transformer-jax: the reader of the output has gone"


@pytest.mark.parametrize(
    "redirection, message",
    [
        ("> /dev/full", "standard output cannot be written: No space left on device"),
        ("<&-", "there is no standard input: name a file with --input"),
        (">&-", "there is no standard output: name a file with --output"),
    ],
)
def test_standard_streams_that_cannot_be_used(run, tmp_path, redirection, message):
    (tmp_path / "in").write_text("w1 w2\n")
    line = f"{sys.executable} -m transformer_jax.cli translate --run-dir {run} --method greedy"
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", f"{line} < in {redirection}"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"transformer-jax: {message}"


def test_files_need_no_standard_streams(run, tmp_path):
    (tmp_path / "in").write_text("w1 w2\n")
    line = f"{sys.executable} -m transformer_jax.cli translate --run-dir {run} --method greedy"
    script = f"{line} --input in --output out <&- >&-"
    subprocess.run(["bash", "-c", script], check=True, env=ENVIRONMENT, cwd=tmp_path)
    assert len((tmp_path / "out").read_text().splitlines()) == 1
