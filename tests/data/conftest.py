import pytest

from transformer_jax.data.datasets import load_dataset


@pytest.fixture
def load(tmp_path):
    def load(name, direction="en-de", data_dir=None):
        given = None if data_dir is None else str(data_dir)
        return load_dataset(name, direction, given, tmp_path / "cache")

    return load


@pytest.fixture
def prepared_files(tmp_path):
    """What `load` has written, with the time of each file."""

    def prepared_files():
        root = tmp_path / "cache" / "tensorflow_datasets"
        return {path: path.stat().st_mtime_ns for path in root.rglob("*.array_record*")}

    return prepared_files
