"""Text that cannot be read is refused in one line."""

import gzip
import json
import os
from pathlib import Path

from tests.commands.bad_input import (
    SMALL,
    TRAIN,
    bad_input,
    check_one_message,
    command,
    no_setup,
    text,
    write,
)
from tests.small_job import write_text

CASES = {
    "missing file": (no_setup, TRAIN, "src: No such file or directory"),
    "a folder for a file": (lambda: Path("src").mkdir(), TRAIN, "src: Is a directory"),
    "files of two lengths": (
        text("a\nb\nc\n", "a\nb\n"), TRAIN,
        "src has 3 lines but {here}/tgt has 2: line n of one must translate line n of the other",
    ),
    "not UTF-8": (
        text(b"a\nb \xff\n", "a\nb\n"), TRAIN,
        "src, line 2: byte 2 is not UTF-8; convert the text, for example with iconv",
    ),
    "UTF-16": (
        text("a\nb\n".encode("utf-16"), "a\nb\n"), TRAIN, "src, line 1: byte 0 is not UTF-8",
    ),
    "empty files": (text("", ""), TRAIN, "hold no pair of lines with text on both sides"),
    "empty lines only": (text("\n\n", "\n\n"), TRAIN, "no pair of lines with text on both sides"),
    "every line too long": (
        text("a b c d\n" * 9, "a\n" * 9), [*TRAIN, "--max-length", "4"],
        ": no sentence pair is left: 0 have an empty side, 9 exceed max_length 4: give other text",
    ),
    "vocabulary larger than the text allows": (
        text("one two three\n" * 9, "eins zwei drei\n" * 9), [*TRAIN, "--vocabulary", "bpe"],
        "cannot train a bpe vocabulary of vocab_size 1000 on this text: it allows at most",
    ),
    "vocabulary smaller than its characters": (
        text("one two three\n" * 9, "eins zwei drei\n" * 9),
        [*TRAIN, "--vocabulary", "bpe", "--vocab-size", "99"], "raise vocab_size",
    ),
    "no text": (no_setup, ["train", "--run-dir", "new"], "no training text: give --train"),
    "a corpus that is none": (
        no_setup,
        ["train", "--run-dir", "new", "--corpus", "here"],
        "here holds no prepared corpus",
    ),
    "a dataset without its files": (
        no_setup, ["train", "--run-dir", "new", "--dataset", "multi30k", "--data-dir", "here"],
        "here lacks train.en (or train.en.gz)",
    ),
    "a pipe": (
        lambda: (os.mkfifo("src"), write("tgt", "a\n")), TRAIN,
        "src is a pipe or a device, and this text is read several times: write it to a file first",
    ),
    "packed and damaged": (
        text(gzip.compress(b"a\n" * 99)[:-5], "a\n" * 99), TRAIN, "src cannot be unpacked (",
    ),
    "lines that show nothing": (
        text(" \n\u3000\n\u200b\n", "a\nb\nc\n"), TRAIN,
        "hold no pair of lines with text on both sides",
    ),
    "archives that are not there": (
        no_setup,
        ["prepare", "--output", "new", "--dataset", "wmt14_translate", "--data-dir", "here"],
        "here lacks training-parallel-europarl-v7.tgz, training-parallel-commoncrawl.tgz",
    ),
}  # fmt: skip


@bad_input(CASES)
def test_bad_text_gets_one_message(case, real, run, tmp_path, caplog):
    check_one_message(case, real, tmp_path, caplog)


def test_odd_text_is_accepted(tmp_path):
    """Empty sides and long lines are counted, NUL is a character, CRLF ends a line."""
    source, target = (Path(p).read_text() for p in write_text(tmp_path / "plain", 200))
    long = "w1 " * 350_000 + "\n"
    write("src", (source + "\n" + "w1\n" + long + "w\0 w2\n").replace("\n", "\r\n"))
    write("tgt", target + "W1\n" + "\n" + "W1\n" + "W2 W\0\n")
    done = command("prepare", "--output", "new", "--train", "src", "tgt", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "201 pairs, vocabulary of 30; left out: 2 with an empty side, 1 beyond" in done.stderr
    assert "--max-length" not in done.stderr
    short = ["--train", "src", "tgt", *SMALL, "--max-length", "4"]
    done = command("prepare", "--output", "short", *short)
    assert "leaves out more than 5% of the pairs: --max-length decides it" in done.stderr
    types = json.loads(Path("new/train/vocabulary.json").read_text())
    assert "w\0" in types
    assert not [word for word in types if "\r" in word]
