"""`statsvc import`: counts that were computed elsewhere."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.command_line import invoke
from support.expected import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path


def test_published_cityscapes_counts_give_the_published_erfnet_weights(tmp_path: Path) -> None:
    table = tmp_path / "counts.json"
    table.write_text(json.dumps(PUBLISHED["cityscapes_fine_train"]["counts_by_labelId"]))
    home = ("--home", tmp_path / "home")
    invoke("import", table, "--name", "cityscapes", "--class-map", "cityscapes", *home)
    output = invoke("weights", "--recipe", "erfnet-decoder", "--format", "csv", *home).stdout
    rows = list(csv.DictReader(io.StringIO(output)))
    assert rows[0]["name"] == "road"
    expected = PUBLISHED["cityscapes_fine_train"]["erfnet_decoder"]["weights"]
    np.testing.assert_allclose([float(row["weight"]) for row in rows], expected, rtol=6e-4)
    failed = invoke("weights", "--method", "median_freq", *home, code=1)
    assert "images" in failed.stderr


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ('{"7": 1, "7": 2}', ["twice"]),
        ('{"0": 5, " 0": 7}', ["id 0", "twice"]),
        ('{"07": 5, "7": 7}', ["id 7", "twice"]),
        ("id,pixels\n7,1\n07,2\n", ["line 3", "id 7", "twice"]),
        ('{"1_0": 5}', ["1_0"]),
        ('{"7": ' + "9" * 5000 + "}", ["cannot be parsed"]),
        ("[" * 100_000, ["cannot be parsed"]),
        ("id,pixels\n" + "9" * 200_000 + ",1\n", ["line 2"]),
        ('{"7": 0, "8": 0}', ["no counts above 0"]),
        ("id,pixels\n7,0\n", ["no counts above 0"]),
        (json.dumps({str(raw): 1 for raw in range(200_000)}), ["more than 4096 different ids"]),
        ('{"7": -1}', ["-1"]),
        ('{"seven": 1}', ["seven"]),
        ('{"7": 0.5}', ["0.5"]),
        ("{", ["JSON"]),
        ("a,b\n1,2\n", ["id,pixels"]),
        ("id,pixels\n1,x\n", ["line 2"]),
        ("", ["id,pixels"]),
    ],
)
def test_an_import_error_names_the_file_and_the_entry(
    text: str, fragments: list[str], tmp_path: Path
) -> None:
    table = tmp_path / "counts.txt"
    table.write_text(text)
    done = invoke("import", table, "--name", "x", "--home", tmp_path / "home", code=2)
    assert str(table) in done.stderr
    for fragment in fragments:
        assert fragment in done.stderr
    assert invoke("datasets", "--home", tmp_path / "home").stdout == ""


def test_imported_counts_of_ignored_ids_are_stored_without_weights(tmp_path: Path) -> None:
    table = tmp_path / "counts.json"
    table.write_text('{"255": 5}')
    home = ("--home", tmp_path / "home")
    assert "no weights:" in invoke("import", table, "--name", "x", *home).stderr
    assert json.loads(invoke("datasets", "--json", *home).stdout)[0]["pixels"] == 5


def test_imported_image_counts_are_used_by_methods_over_images(tmp_path: Path) -> None:
    table = tmp_path / "counts.csv"
    table.write_text("id,pixels,images\n0,900,10\n1,100,5\n")
    home = ("--home", tmp_path / "home")
    invoke("import", table, "--name", "x", *home)
    answer = json.loads(
        invoke(
            *("weights", "--method", "effective_num", "--unit", "images", "--beta", "0.9"),
            *("--normalize", "none", *home),
        ).stdout
    )
    expected = [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**5)]
    np.testing.assert_allclose(answer["weights"], expected, rtol=1e-12)
