"""What the documentation says is what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from statsvc.cli import cli

ROOT = Path(__file__).parents[1]


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
    from statsvc.store.arrays import CLASS_ARRAYS, SAMPLE_ARRAYS

    page = (ROOT / "docs" / "how-it-works.md").read_text()
    for name in ("counts", *SAMPLE_ARRAYS, *CLASS_ARRAYS):
        assert f"`{name}`" in page
