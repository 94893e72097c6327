"""What the documentation says is what the code does."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.cli import cli

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_weights_page_are_the_ones_that_the_code_prints() -> None:
    command = [sys.executable, "scripts/methods_table.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "weights.md").read_text()
    methods, recipes = printed.strip().split("\n\n")
    assert methods in page
    assert recipes in page


def test_every_command_in_the_readme_exists() -> None:
    fenced = "".join((ROOT / "README.md").read_text().split("```")[1::2]).replace("|", "\n")
    lines = [line.split() for line in fenced.splitlines()]
    named = {words[1] for words in lines if words[:1] == ["statsvc"]}
    assert {"scan", "weights", "import", "serve"} <= named
    assert named <= set(cli.commands)


def test_the_array_table_of_the_documentation_names_every_array() -> None:
    from statsvc.store.versions.arrays import CLASS_ARRAYS, SAMPLE_ARRAYS

    page = (ROOT / "docs" / "how-it-works.md").read_text()
    for name in ("counts", *SAMPLE_ARRAYS, *CLASS_ARRAYS):
        assert f"`{name}`" in page


def test_the_tables_of_the_training_page_follow_from_the_runs_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import training

    page = (ROOT / "docs" / "training.md").read_text()
    found = training.read()
    for part in training.report(found).split("\n\n"):
        assert part in page
    # Once more, from the lines alone: the mean over seeds of what the page says of plain cross-entropy.
    names = [one["name"] for one in found["classes"]]
    plain = [
        line["iou"][names.index("bicyclist")]
        for line in found["runs"]
        if [line[name] for name in ("method", "dice", "sampled", "long", "lr")]
        == ["uniform", 0, False, 1, 0.1]
    ]
    row = next(line for line in page.splitlines() if line.startswith("| bicyclist |"))
    cell = row.split("|")[3].split("±")
    assert len(plain) >= 3
    assert float(cell[0]) == round(100 * statistics.mean(plain), 1)
    assert float(cell[1]) == round(100 * statistics.stdev(plain), 1)
