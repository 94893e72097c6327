"""The numbers of docs/explanation/losses.md are the ones that its script computes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_table_of_the_page_on_losses_is_the_one_that_the_script_prints() -> None:
    command = [sys.executable, "scripts/losses_page.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "explanation" / "losses.md").read_text()
    tables = printed.strip().split("\n\n")[1::2]
    assert len(tables) == 9
    computed = page[page.index("## Cross-entropy") : page.index("## Time and memory")]
    assert len(re.findall(r"^\| -.*---: \|$", computed, re.MULTILINE)) == len(tables)
    for table in tables:
        assert table in page


def test_the_figures_of_the_page_on_losses_are_there() -> None:
    page = (ROOT / "docs" / "explanation" / "losses.md").read_text()
    figures = re.findall(r"\(../images/(losses-\w+\.png)\)", page)
    assert len(figures) == 3
    assert {path.name for path in (ROOT / "docs" / "images").glob("losses-*")} == set(figures)
