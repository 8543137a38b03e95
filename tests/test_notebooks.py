"""The notebooks run from top to bottom, and are committed without what they printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> NotebookClient:
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return client


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory, monkeypatch):
    """The kernel writes its history elsewhere than in the user's home."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_committed_lean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []


def test_quickstart(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    client = execute(notebook, tmp_path)
    texts = {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "int4-sym-g128" in texts["convert"]
    assert "openvino_model.bin" in texts["convert"]
    assert "论语" in texts["stream"]
    assert "tokens/s" in texts["speed"]
    assert "李商隐" in texts["complete"]
    assert (tmp_path / "nano-int4" / "baichuan_intel.json").is_file()

    [cell] = [cell for cell in notebook.cells if cell.id == "device"]
    [shown] = [output.data[WIDGET] for output in cell.outputs if WIDGET in output.get("data", {})]
    options = client.widget_state[shown["model_id"]]["_options_labels"]
    assert {"CPU", "AUTO"} <= set(options)


def test_a_cell_that_fails_is_found(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise ValueError('春')")])
    with pytest.raises(CellExecutionError, match="春"):
        execute(notebook, tmp_path)
