"""Commands on the run of a small job, in this process; tests/test_cli.py has the real one."""

import shutil

import pytest


@pytest.fixture
def run(uninterrupted_run, tmp_path):
    """A copy of the whole run, which may be changed."""
    return shutil.copytree(uninterrupted_run[2].folder, tmp_path / "run")
