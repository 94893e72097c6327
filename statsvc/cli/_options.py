"""The options that say how counts are read, and the changes of a configuration that they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.splits import Split


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how counts are read."""
    for option in (
        click.option("--num-classes", type=click.IntRange(1, 65536), help="Length of the weights vector."),
        click.option(
            "--ignore-index",
            "--ignore",
            multiple=True,
            metavar="IDS",
            help="Ids not counted: 255,254 or none.",
        ),
        click.option(
            "--class-names",
            metavar="NAMES",
            help="Names of classes 0, 1, …: a,b,c or a file, one a line or a JSON array.",
        ),
        click.option(
            "--class-map",
            metavar="MAP",
            help="Raw id to class id: a built-in map such as cityscapes or camvid, none, or a file.",
        ),
    ):
        command = option(command)
    return command


def reading_changes(
    *,
    class_map: str | None,
    class_names: str | None,
    ignore_index: tuple[str, ...],
    num_classes: int | None,
    splits: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the parts of a configuration that options give. Raises `InvalidParameter`."""
    from statsvc.classes import class_map_files
    from statsvc.dataset.split_files import read_option
    from statsvc.weighting.parameters import WeightSpec

    changes: dict[str, Any] = {}
    if class_map is not None:
        changes["class_map"] = None if class_map == "none" else class_map_files.resolve(class_map)
    if class_names is not None:
        file = Path(class_names)
        if not file.is_file() and "," not in class_names and ("/" in class_names or file.suffix):
            raise InvalidParameter(
                ("class_names", f"there is no file {class_names}; give names as a,b,c or a file, one a line")
            )
        names = _names_in(file) if file.is_file() else class_names.split(",")
        changes["class_names"] = tuple(name.strip() for name in names if name.strip())
    if ignore_index:
        changes["ignore_index"] = WeightSpec.from_params({"ignore_index": list(ignore_index)}).ignore_index
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if splits:
        given: dict[str, Split] = {}
        for item in splits:
            given |= read_option(item)
        changes["splits"] = given
    return changes


def _names_in(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(("class_names", f"{file} cannot be read as text: {error}")) from error
    if not text.lstrip().startswith(("[", "{")):
        return text.splitlines()
    try:
        names = json.loads(text)
    except ValueError as error:
        raise InvalidParameter(("class_names", f"{file} starts like JSON, but is none: {error}")) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidParameter(
            ("class_names", f"{file}: expected a list of names, as text a line or as a JSON array of strings")
        )
    return names
