"""`statsvc doctor`: what looks wrong in a dataset, before anything is trained."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import (
    current_table,
    home_options,
    json_option,
    opened,
    print_json,
    the_dataset,
    version_name,
)
from statsvc.doctor.finding import SERIOUS
from statsvc.doctor.report import examine
from statsvc.errors import SourceError, UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import RenderableType

    from statsvc.store.versions.version import Version


@click.command()
@click.argument("name", required=False)
@click.option(
    "--version", "number", type=version_name, metavar="N|TAG", help="Number or tag.  [default: newest]"
)
@json_option
@home_options
def doctor(
    name: str | None,
    number: int | str | None,
    as_json: bool,
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """Say what looks wrong in dataset NAME: where, how far it moves the weights, and what to do.

    From the counts, in seconds; of a few label maps, the edges are looked at too where they are still
    there. Exit code 1 where something serious was found.
    """
    with opened(home, database, store) as (place, catalog):
        dataset = the_dataset(catalog, name)
        table = current_table(place, catalog, dataset, number)
        look = None if dataset.source is None else partial(_pixels, dataset.source, table)
        report = examine(table, table.array if table.has_rows else None, look)
    if as_json:
        print_json(report)
    else:
        from statsvc.weighting.display import printed

        printed(lambda _width: _shown(report), sys.stdout)
    if report["serious"]:
        raise click.exceptions.Exit(1)


def _pixels(source: str, table: Version, name: str) -> Iterator[NDArray[np.integer]]:
    """Yield the pixels of a sample that is a file, as 2-D blocks; nothing where it cannot be read."""
    try:
        from statsvc_workers.formats import open_label_map
        from statsvc_workers.jobs.attempt import MAX_PIXELS
        from statsvc_workers.samples.open_sample import exists, open_bytes
    except ModuleNotFoundError:
        return
    try:
        if not exists(source, name):
            return
        with open_bytes(source, name) as file:
            label_map = open_label_map(name, file, MAX_PIXELS, key=table.configuration.counting.key)
            for chunk in label_map.chunks:
                yield chunk.reshape(-1, label_map.width) if chunk.size % label_map.width == 0 else chunk
    except (OSError, SourceError, UnreadableSample):
        return


def _shown(report: dict[str, Any]) -> RenderableType:
    """Return a report for people: a paragraph a finding, the serious ones first."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    serious, findings = report["serious"], report["findings"]
    heading = Text.assemble((report["dataset"], "bold"), f" · version {report['version']}")
    if report["images"] is not None:
        heading.append(f" · {report['images']:,} image{'' if report['images'] == 1 else 's'}")
    heading.append(f" · {serious} serious, {len(findings) - serious} to look at" if findings else " · sound")
    parts: list[RenderableType] = [heading]
    for one in findings:
        style = "bold red" if one["level"] == SERIOUS else "yellow"
        parts += ["", Text.assemble((one["level"], style), f"  {one['code']}")]
        lines = [("saw", one["saw"])]
        if one["files"]:
            more = one["count"] - len(one["files"])
            lines.append(("in", ", ".join(one["files"]) + (f" and {more:,} more" if more > 0 else "")))
        if one["moves"] is not None:
            lines.append(("moves", _moves(one["moves"], one["code"])))
        lines.append(("do", one["do"]))
        table = Table.grid(padding=(0, 2))
        for label, text in lines:
            table.add_row(Text(f"{label:<5}"), Text(text))
        parts.append(Padding(table, (0, 0, 0, 2)))
    for what in report["not_examined"]:
        parts += ["", Text(f"not examined: {what}", "dim")]
    return Group(*parts)


def _moves(moves: dict[str, Any], code: str) -> str:
    """Return `the weight of car most: 1.204, and 1.431 (+19 %) once mended`."""
    before, after = moves["weight"], moves["mended"]
    if code == "absent_from_split":
        return f"the weight of {moves['name']} most: {before:.4g} of this split alone, and {after:.4g} of all"
    change = f" ({after / before - 1:+.1%})" if before and after else ""
    return f"the weight of {moves['name']} most: {before:.4g}, and {after:.4g}{change} once mended"
