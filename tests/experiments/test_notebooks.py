"""Notebooks run from their first cell to their last, and are kept without outputs."""

import base64
import io
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.small_job import ONE_DEVICE

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
# Name -> pictures that it shows.
NOTEBOOKS = {
    "transformer_in_ten_minutes": 2,
    "reproduce_the_paper": 4,
    "your_own_text": 2,
}


def test_outputs_are_stripped():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)
    for name in NOTEBOOKS:
        for cell in json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))["cells"]:
            assert cell["cell_type"] == "markdown" or (
                cell["outputs"] == [] and cell["execution_count"] is None
            )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own loops and sockets
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("XLA_FLAGS", ONE_DEVICE["XLA_FLAGS"])  # its kernel takes it over
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    done = NotebookClient(book, timeout=280, resources={"metadata": {"path": FOLDER}}).execute()
    pictures = [
        output["data"]["image/png"]
        for cell in done["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == NOTEBOOKS[name]
    for picture in pictures:
        assert imread(io.BytesIO(base64.b64decode(picture))).std() > 0.03  # something is drawn
