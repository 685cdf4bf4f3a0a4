"""Commands on the run of a small job, in this process; tests/test_cli.py has the real one."""

import shutil

import pytest

from transformer_jax.cli import main


@pytest.fixture
def run(uninterrupted_run, tmp_path):
    """A copy of the whole run, which may be changed."""
    return shutil.copytree(uninterrupted_run[2].folder, tmp_path / "run")


@pytest.fixture
def command(capsys):
    """What a command prints."""

    def command(*arguments):
        capsys.readouterr()
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return command
