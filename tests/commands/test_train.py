"""train prints its configuration."""

from pathlib import Path

import pytest

from transformer_jax import RunConfig, presets


def test_a_configuration_is_printed_and_read_again(command, run):
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
        SystemExit, match=r"given.json is no configuration: model has no field 'dff'"
    ):
        command("train", "--run-dir", "new", "--config", "given.json")
