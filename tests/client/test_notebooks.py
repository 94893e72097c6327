"""What notebooks show: tables with bars, plots, progress, and the notebook of the examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import statsvc
from statsvc.store import home as homes
from statsvc.weighting.comparison_result import Comparison
from support.command_line import invoke
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
NAMES = ("road", "<b>car</b>", "pole", "tree")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> statsvc.LocalTable:
    folder = tmp_path_factory.mktemp("labels")
    values = [0] * 50 + [1] * 25 + [2] * 5 + [255] * 20
    for number in range(2):
        Image.fromarray(np.array(values, np.uint8).reshape(10, 10)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return statsvc.scan(folder, class_names=NAMES, pattern="*.png")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    home = homes.resolve(str(folder / "home"))
    for number in range(3):
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 4).save(folder / f"{number}.png")
    invoke("scan", folder, "--pattern", "*.png", "--name", "street", "--home", home.folder)
    with serving(home) as running:
        yield running


def cells(html: str) -> list[list[str]]:
    """Return the texts of an HTML table, by row."""
    return [re.findall(r"<td[^>]*>([^<]*)", row) for row in html.split("<tr>")[2:]]


def test_a_scan_is_a_table_with_a_bar_for_each_id(table: statsvc.LocalTable) -> None:
    html = table._repr_html_()
    assert "<b>" not in html
    assert cells(html) == [
        ["0", "road", "100", "2", "50.000%", ""],
        ["1", "&lt;b&gt;car&lt;/b&gt;", "50", "2", "25.000%", ""],
        ["2", "pole", "10", "2", "5.000%", ""],
        ["255", "255 (ignored)", "40", "2", "20.000%", ""],
    ]
    assert re.findall(r"width:([\d.]+)em", html) == ["12.00", "6.00", "1.20", "4.80"]
    assert "1 unreadable label map(s)" in html


def test_the_plot_of_a_scan_has_the_share_of_each_id(table: statsvc.LocalTable) -> None:
    pytest.importorskip("matplotlib").use("agg")
    axes: Any = table.plot()
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.25, 0.05, 0.2]
    axes.figure.canvas.draw()


def test_a_comparison_is_a_table_and_a_plot_of_shares_of_the_loss(table: statsvc.LocalTable) -> None:
    pytest.importorskip("matplotlib").use("agg")
    compared = table.compare("inverse_freq", strength=[0.5, 1.0])
    assert isinstance(compared, Comparison)
    html = compared._repr_html_()
    columns = re.findall(r"<th>([^<]*)</th>", html)
    assert columns[:3] == ["class", "pixels", "uniform"]
    assert any("inverse_freq" in name and "strength=0.5" in name for name in columns)
    inverse = next(k for k, name in enumerate(columns) if name.startswith("inverse_freq") and "=" not in name)
    rows = {row[0]: row for row in cells(html)}
    assert rows["road"][1] == "62.500%"  # of the valid pixels
    assert [rows[name][inverse] for name in ("road", "pole")] == ["33.3%", "33.3%"]
    assert rows["max/min weight"][inverse] == "10"
    figure = compared.plot()
    figure.canvas.draw()


def test_a_client_compares_and_lists_jobs(url: str, tmp_path: Path) -> None:
    client = statsvc.Client(url, cache=tmp_path)
    compared = client.compare("street", method=["enet"])
    assert {name for c in compared["candidates"] for name in c["names"]} == {
        "uniform",
        "sqrt_inv_freq",
        "enet",
    }
    jobs = client.jobs("street")
    assert [job["state"] for job in jobs] == ["succeeded"]
    html = jobs._repr_html_()
    assert cells(html) == [[jobs[0]["id"], "street", "succeeded", "3 of 3", ""]]
    assert "width:12.00em" in html


def test_the_notebook_of_the_examples_runs_and_shows_progress(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "weights.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]  # stored without results
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type in ("stream", "error")]
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    progress, scan, weights, compared = html
    assert progress == ""  # the bar disappears at the end
    assert "<LocalTable" in scan.replace("&lt;", "<")
    assert all(table.count("width:") >= 11 for table in (scan, weights))
    assert "linear-gradient" in compared
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


BAR = """
import statsvc.local.notebook as notebook
notebook._INTERVAL = 0
show = notebook.notebook_bar("labels")
for done in (1, 2):
    show(done, 3)
"""


def test_a_progress_bar_in_a_notebook_is_updated_in_place() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BAR)])
    NotebookClient(notebook, timeout=200).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/html"] == "<progress value='2' max='3'></progress> 2 of 3 labels"
    assert output.data["text/plain"] == "2 of 3 labels"
