import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_job import write_text
from transformer_jax.cli import COMMANDS, main
from transformer_jax.data.manifest import Manifest

ROOT = Path(__file__).parents[1]
SMALL = ["--preset", "tiny", "--parallel", "jit", "--vocabulary", "whitespace",
         "--d-model", 16, "--d-ff", 32, "--num-layers", 1, "--num-heads", 2, "--max-length", 16,
         "--batch-tokens", 64, "--max-batch-shapes", 1, "--warmup-steps", 20]  # fmt: skip


def command(*arguments, text=None):
    return subprocess.run(
        [sys.executable, "-m", "transformer_jax.cli", *map(str, arguments)],
        capture_output=True, text=True, input=text, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def run_in_process(*arguments):
    """As `command`, in this process, where everything is imported and compiled already."""
    main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", [[], *([name] for name in COMMANDS)])
def test_help_imports_nothing_heavy(name):
    code = (
        "import sys\nfrom transformer_jax.cli import COMMANDS, main\n"
        f"try:\n    main({[*name, '--help']!r})\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'jax', 'flax', 'numpy', 'orbax', 'matplotlib', 'sacrebleu',"
        " 'sentencepiece', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_signal_while_the_first_step_compiles(tmp_path, number, code):
    """The step is finished and saved: a cluster's warning comes at any time."""
    train = write_text(tmp_path / "train")
    arguments = map(str, ["train", "--train", *train, *SMALL])
    command_line = [sys.executable, "-m", "transformer_jax.cli", *arguments]
    with subprocess.Popen(
        [*command_line, "--run-dir", tmp_path / "run"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        for line in process.stderr:
            if "from step 0" in line:
                break
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == code
    stopped = rf"transformer-jax: stopped by {number.name} after step \d+, which is saved; "
    assert re.search(stopped, rest)
    assert rest.endswith(f"transformer-jax train --run-dir {tmp_path / 'run'}\n")
    assert "Traceback" not in rest


def test_train_translate_evaluate(tmp_path, capsys):
    train, test = write_text(tmp_path / "train"), write_text(tmp_path / "test", 20, seed=3)
    run = tmp_path / "run"
    done = command("train", "--train", *train, "--validation", *test, "--run-dir", run,
                   "--steps", 8, *SMALL)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run)
    assert "| 8/8 [" in done.stderr
    # Without a preset the run's own configuration is used.
    run_in_process("train", "--run-dir", run, "--steps", 10)
    assert capsys.readouterr().out.strip() == str(run)
    done = command("translate", "--run-dir", run, "--beam-size", 2, text="w1 w2\n\nw3\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert len(lines) == 4
    assert lines[1] == ""
    out = tmp_path / "out"
    run_in_process("evaluate", "--run-dir", run, "--test", *test, "--output", out)
    shown = capsys.readouterr().out
    assert "checkpoint: averaged at step 10" in shown
    assert "tokenized BLEU = " in shown
    assert "perplexity = " in shown
    assert len(out.read_text().splitlines()) == 20


def test_dataset_prepared_once_and_split_evaluated(tmp_path, caplog, capsys):
    folder = tmp_path / "texts"
    for split, count in (("train", 300), ("validation", 20), ("test", 15)):
        source, target = write_text(tmp_path / split, count, seed=count)
        folder.mkdir(exist_ok=True)
        Path(source).rename(folder / f"{split}.en")
        Path(target).rename(folder / f"{split}.de")
    dataset = ["--dataset", "text", "--direction", "de-en", "--data-dir", folder]
    cache = ["--cache-dir", tmp_path / "kept"]
    done = command("train", *dataset, *cache, *SMALL, "--steps", 2, "--run-dir", "one")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one\n"
    assert "preparing text/de-en" in done.stderr
    run_in_process("train", *dataset, *cache, *SMALL, "--steps", 2, "--run-dir", "two")
    assert "preparing" not in caplog.text
    assert "prepared already, in" in caplog.text
    run_in_process("evaluate", "--run-dir", "one", "--split", "test", "--output", "out")
    assert "tokenized BLEU = " in capsys.readouterr().out
    assert len(Path("out").read_text().splitlines()) == 15
    message = "the dataset of one has no split 'tset'; it has train, validation, test"
    with pytest.raises(SystemExit, match=message):
        run_in_process("evaluate", "--run-dir", "one", "--split", "tset")
    run_in_process("prepare", *dataset, *SMALL, "--output", "prepared")
    assert (Path("prepared") / Manifest.FILE).read_bytes() == (
        Path("one") / "corpus" / Manifest.FILE
    ).read_bytes()
