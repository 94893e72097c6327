"""Messages about one thing are in the singular."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from statsvc.cli import cli
from statsvc.common.plurals import part_with_verb, plural, plural_with_verb
from statsvc.weighting.parameters import WeightSpec
from statsvc.weighting.response import files_response
from support.small_tables import table_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 classes have"), (1, "1 class has"), (2, "2 classes have"), (1200, "1,200 classes have")],
)
def test_the_noun_and_the_verb_agree_with_the_number(number: int, text: str) -> None:
    assert plural_with_verb(number, "class", "has", "have") == text
    assert plural(number, "class") == text.rpartition(" ")[0]


def test_the_verb_agrees_with_the_part_and_the_noun_with_the_total() -> None:
    assert part_with_verb(1, 2, "file", "is", "are") == "1 of 2 files is"
    assert part_with_verb(1, 1, "file", "is", "are") == "1 of 1 file is"
    assert part_with_verb(2, 3000, "file", "is", "are") == "2 of 3,000 files are"


def test_commands_on_a_dataset_of_one_label_map_print_the_singular(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    folder, home = str(tmp_path / "labels"), ("--home", str(tmp_path / "home"))
    assert "Created 1 label map of 64x32 pixels" in run("demo", folder, "--images", "1", "--size", "64x32")
    assert " · 1 image · " in run("scan", folder, "--name", "one", "--workers", "1", *home)
    assert "1 version checked, 0 damaged" in run("verify", *home)
    assert "0 versions marked, rows of 0 deleted, 0 orphans deleted, 0 old jobs deleted" in run("gc", *home)
    assert " · 1 image · " in run("compare", "one", *home)
    (tmp_path / "home" / "catalog.sqlite").unlink()
    assert "one: 1 version\n" in run("rebuild", *home)


def test_warnings_about_one_class_print_the_singular() -> None:
    response = files_response(table_of([{0: 9, 1: 5, 3: 1}], num_classes=3), WeightSpec())
    warnings = {warning["code"]: warning["message"] for warning in response["warnings"]}
    assert "raw id 3" not in warnings["unexpected_ids"]
    assert "id 3 (1 pixel, for example" in warnings["unexpected_ids"]
    assert warnings["absent_classes"].startswith("1 of 3 classes has no pixels and gets ")
