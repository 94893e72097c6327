"""Values that a new user may mistype: an error in one line that names the value and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.command_line import invoke
from support.commands import statsvc

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("command", [("datasets",), ("gc",), ("scan", "labels")])
def test_a_home_directory_that_is_a_file_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert statsvc(*command, "--home", file, code=1, cwd=tmp_path).stderr == (
        f"statsvc: the catalog's folder {file} is a file; choose another --home\n"
    )


def test_a_version_store_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    stderr = statsvc("gc", "--home", tmp_path / "home", "--store", file, code=1).stderr
    assert stderr == f"statsvc: {file} is not a folder; choose another --home or --store\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--port", "80a"), "Invalid value for '--port': '80a' is not a valid integer."),
        (("scan", "x", "--max-removed", "a"), "Invalid value for '--max-removed': 'a' is not a valid float."),
    ],
)
def test_a_number_that_is_not_one_is_named_with_its_option(arguments: tuple[str, ...], message: str) -> None:
    assert message in invoke(*arguments, code=2).stderr


def test_a_folder_with_one_file_of_another_kind_is_described_in_the_singular(tmp_path: Path) -> None:
    source = tmp_path / "labels"
    source.mkdir()
    (source / "notes.txt").write_text("")
    stderr = invoke("scan", str(source), "--home", str(tmp_path / "home"), code=1).stderr
    assert "only 1 .txt file; pass the folder of the label maps" in stderr
    (source / "notes.txt").rename(source / "notes")
    stderr = invoke("scan", str(source), "--home", str(tmp_path / "home"), code=1).stderr
    assert "only 1 file without an extension; pass" in stderr
