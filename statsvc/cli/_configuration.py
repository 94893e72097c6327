"""The options that configure a dataset: how its raw ids become classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.classes import class_maps
from statsvc.classes.class_maps import MAX_CLASSES
from statsvc.cli._completion import complete_choices
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.dataset.splits import Split


def configuration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --class-map, --class-names, --ignore-index, --num-classes and --group."""
    for option in (
        click.option(
            "--group",
            "groups",
            multiple=True,
            metavar="NAME=RULE",
            help="Groups of samples: NAME=EXPRESSION over the path, such as 'city=^(\\w+?)_', "
            "NAME=folder:LEVEL, or NAME=FILE.csv with path and value.",
        ),
        click.option(
            "--num-classes",
            type=click.IntRange(1, MAX_CLASSES),
            metavar="N",
            show_default="highest counted id + 1",
            help="Number of classes, the length of the weights.",
        ),
        click.option(
            "--ignore-index",
            "--ignore",
            multiple=True,
            metavar="IDS",
            show_default="255 and negative ids",
            help="Class ids that are not counted: 255,254 or none.",
        ),
        click.option(
            "--class-names",
            metavar="NAMES",
            help="Names of classes 0, 1, …: a,b,c or a file such as classes.txt or _classes.csv.",
        ),
        click.option(
            "--class-map",
            metavar="MAP",
            shell_complete=complete_choices((*class_maps.BUILTIN, "none"), files=True),
            help="Map from raw ids to class ids: a built-in map such as cityscapes, a file, or none.",
        ),
    ):
        command = option(command)
    return command


def configuration_changes(
    *,
    class_map: str | None,
    class_names: str | None,
    ignore_index: tuple[str, ...],
    num_classes: int | None,
    grid: str | None = None,
    groups: tuple[str, ...] = (),
    splits: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the configuration fields that the options set. Raises `InvalidParameter`."""
    changes: dict[str, Any] = {}
    if class_map is not None:
        from statsvc.classes import class_map_files

        changes["class_map"] = None if class_map == "none" else class_map_files.resolve(class_map)
    if class_names is not None:
        changes["class_names"] = _parse_class_names(class_names)
    if ignore_index:
        from statsvc.weighting.parameters import WeightSpec

        changes["ignore_index"] = WeightSpec.from_params({"ignore_index": list(ignore_index)}).ignore_index
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if grid is not None:
        from statsvc.dataset.grid import parse

        changes["grid"] = parse(grid)
    if groups:
        from statsvc.dataset.groups import read_option as read_group

        changes["groups"] = dict(read_group(text, files=True) for text in groups)
    if splits:
        from statsvc.dataset.split_files import read_option

        configured: dict[str, Split] = {}
        for item in splits:
            configured |= read_option(item)
        changes["splits"] = configured
    return changes


def _parse_class_names(text: str) -> tuple[str, ...]:
    file = Path(text)
    if not file.is_file() and "," not in text and ("/" in text or file.suffix):
        raise InvalidParameter(
            (
                "class_names",
                f"The file {text} does not exist. Give names as a,b,c or a file that lists them.",
            )
        )
    if file.is_file():
        return _read_class_names(file)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _read_class_names(file: Path) -> tuple[str, ...]:
    from statsvc.classes import class_lists

    try:
        return class_lists.parse(file.name, file.read_bytes()).class_names()
    except OSError as error:
        raise InvalidParameter(("class_names", f"{file} cannot be read: {error.strerror}")) from None
    except ValueError as error:
        raise InvalidParameter(("class_names", f"{file}: {error}")) from None
