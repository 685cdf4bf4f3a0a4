"""train prints its configuration, and takes that of a run that it starts from."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.small_job import write_text
from transformer_jax import Run, RunConfig, presets


def test_config_is_printed_and_read_again(command, run):
    printed = command(
        "train", "--run-dir", "new", "--preset", "tiny", "--d-ff", 99, "--print-config"
    )
    config = RunConfig.from_json(printed)
    assert config.model.d_ff == 99
    assert config.data == presets.run_config("tiny").data
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
        SystemExit, match=r"given.json is not a configuration: model has no field 'dff'"
    ):
        command("train", "--run-dir", "new", "--config", "given.json")


def test_pair_of_files_may_be_none(command, run):
    """None takes a pair back that the run, or a configuration, has."""
    printed = command("train", "--run-dir", run, "--validation", "None", "--print-config")
    assert RunConfig.from_json(printed).data.validation is None


def test_train_init_from_another_run(command, run, tmp_path):
    """Without a preset --init-from brings the other run's configuration, but not its text.

    Kernels are chosen anew, for the device of the new run.
    """
    printed = command("train", "--run-dir", "new", "--init-from", run, "--print-config")
    config, other = RunConfig.from_json(printed), Run.open(run).config
    assert config.model == replace(other.model, kernels="auto")
    assert (config.data.vocabulary, config.data.max_length) == ("whitespace", 16)
    assert config.data.batch_tokens == other.data.batch_tokens == 64
    assert (config.data.train, config.data.validation) == (None, None)
    assert (config.optimizer, config.train) == (other.optimizer, other.train)
    more = ("--init-from", run, "--dropout", 0.3, "--print-config")
    changed = RunConfig.from_json(command("train", "--run-dir", "new", *more))
    assert changed.model == replace(config.model, dropout=0.3)
    with pytest.raises(SystemExit, match=r"vocabulary bpe: .* leave --vocabulary out"):
        text = write_text(tmp_path / "text", 9)
        command("train", "--run-dir", "new", *more[:2], "--train", *text, "--vocabulary", "bpe")
    assert not Path("new").exists()
