"""Options that several commands share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._echo import echo
from statsvc.common.durations import parse_schedule
from statsvc.common.object_urls import is_url, normalized

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_UNPRINTABLE = r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
"""Control characters that JSON does not require to be escaped."""

MAX_LISTED = 10_000
"""Largest value of --limit."""

MAX_WORKERS = 1024
"""Largest value of --workers."""

AUTOMATIC_SCANS = "statsvc: runners (statsvc serve, statsvc runner) now scan this dataset automatically"
"""Notice after --every or --watch has turned automatic scans on."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")(command)


def print_json(value: Any) -> None:
    """Print a value as JSON to stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # JSON has escapes of its own; a string in it contains no line break.
    echo(re.sub(_UNPRINTABLE, lambda match: json.dumps(match[0])[1:-1], text))


def version_number(text: str) -> int | str:
    """Parse the value of --version: a version's number, or a tag, which is returned unchanged."""
    if text[:1].isalpha():
        return text
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise click.BadParameter(f"{text!r} is not a version. Give its number or a tag.")
    return int(text)


def version_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --version, passed on as `number`."""
    return click.option(
        "--version",
        "number",
        type=version_number,
        metavar="N|TAG",
        show_default="newest",
        help="Version of the dataset: a number or a tag.",
    )(command)


def url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url of a server that is used instead of the home directory."""
    return click.option("--url", metavar="URL", help="Query this server instead of the home directory.")(
        command
    )


def output_option(description: str) -> Decorator:
    """Add -o/--output of a file."""
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("-o", "--output", type=path, metavar="FILE", help=description)


def split_output_option(description: str) -> Decorator:
    """Add -o/--output of a file or folder with lists of paths."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--output", type=path, metavar="PATH", help=description)


def limit_option(noun: str) -> Decorator:
    """Add --limit, the number of newest rows to list."""
    return click.option(
        "--limit",
        type=click.IntRange(1, MAX_LISTED),
        metavar="N",
        default=20,
        help=f"Largest number of {noun} to list.",
    )


def max_removed_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --max-removed."""
    return click.option(
        "--max-removed",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        show_default="0.1",
        help="Largest share of the samples that this scan may lose without failing.",
    )(command)


def counting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a process that counts: --device, --workers and --max-pixels."""
    for option in (
        click.option(
            "--max-pixels",
            type=click.IntRange(1),
            metavar="N",
            show_default="268435456",
            help="Largest label map to decode, in pixels.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, MAX_WORKERS),
            metavar="N",
            show_default="one per core",
            help="Number of Dask worker processes.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            help="Device that counts the pixels.",
        ),
    ):
        command = option(command)
    return command


def quiet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --quiet."""
    return click.option(
        "--quiet",
        metavar="TIME",
        default="3s",
        help="Time without changes after which a watched source is scanned.",
    )(command)


def trigger_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --every and --watch."""
    for option in (
        click.option(
            "--watch/--no-watch",
            default=None,
            help="Rescan after the source has changed.",
        ),
        click.option("--every", metavar="TIME", help="Rescan at this interval: 10m, 2h, 1d, or none."),
    ):
        command = option(command)
    return command


def trigger_changes(every: str | None, watch: bool | None) -> dict[str, float | bool | None]:
    """Return the changes that the options of `trigger_options` make. Raises `InvalidParameter`."""
    changes: dict[str, float | bool | None] = {}
    if every is not None:
        changes["every"] = parse_schedule(every)
    if watch is not None:
        changes["watch"] = watch
    return changes


def _parse_roots(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[Path | str, ...]:
    """Return each root as a URL or the path of an existing folder."""
    roots: list[Path | str] = []
    for value in values:
        if is_url(value):
            roots.append(normalized(value))
        elif Path(value).is_dir():
            roots.append(Path(value))
        else:
            raise click.BadParameter(
                f"{value!r} is not a folder. Give an existing folder, or a URL such as s3://bucket/prefix."
            )
    return tuple(roots)


def root_option(text: str) -> Decorator:
    """Add --root with a help text; the command receives `roots`, existing folders and normalized URLs."""
    return click.option(
        "--root",
        "roots",
        multiple=True,
        callback=_parse_roots,
        metavar="FOLDER|URL",
        show_default="current folder",
        help=text,
    )
