"""Every notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lightning_prefix.assets import asset_path
from lightning_prefix.errors import InputError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FIRST = "first_prefix"
"""Run with all tests; the others take about a minute each."""


@pytest.mark.network
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[] if path.stem == FIRST else pytest.mark.slow) for path in NOTEBOOKS],
)
def test_runs(path, tmp_path):
    try:
        asset_path("asset:minilm-l6")
    except InputError as error:
        pytest.skip(str(error))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)


def test_the_quick_one_is_there():
    assert FIRST in [path.stem for path in NOTEBOOKS]


def test_are_stored_without_outputs():
    """Outputs hide what a change did."""
    for path in NOTEBOOKS:
        assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells), path
