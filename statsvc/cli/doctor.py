"""`statsvc doctor`: find problems in a dataset before anything is trained."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._completion import complete_dataset
from statsvc.cli._home import HomeOptions, find_dataset, home_options, open_table
from statsvc.cli._options import json_option, print_json, version_option
from statsvc.common.text_table import (
    BOLD,
    BOLD_RED,
    DIM,
    PLAIN,
    YELLOW,
    Column,
    Line,
    print_lines,
    table,
    wrap,
)
from statsvc.doctor.finding import SERIOUS
from statsvc.doctor.report import examine
from statsvc.errors import SourceError, UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from statsvc.store.versions.version import Version


@click.command(short_help="Find problems in a dataset.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@version_option
@json_option
@home_options
def doctor(name: str | None, number: int | str | None, as_json: bool, options: HomeOptions) -> None:
    """Find problems in dataset NAME: which files, the effect on the weights, and what to do.

    Most findings come from the counts and take seconds. A few label maps are read again to check their
    edges, if they are still available. Exit code 1 if there is a serious finding.
    """
    with options.open() as (home, catalog):
        dataset = find_dataset(catalog, name)
        table = open_table(home, catalog, dataset, number)
        read_pixels = None if dataset.source is None else partial(_read_pixels, dataset.source, table)
        report = examine(table, table.array if table.has_rows else None, read_pixels)
    if as_json:
        print_json(report)
    else:
        print_lines(lambda width: _lines(report, width), sys.stdout)
    if report["serious"]:
        raise click.exceptions.Exit(1)


def _read_pixels(source: str, table: Version, name: str) -> Iterator[NDArray[np.integer]]:
    """Yield the pixels of a sample that is a file as 2-D blocks; yield nothing if it cannot be read."""
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


def _lines(report: dict[str, Any], width: int) -> list[Line]:
    """Return a report for people: a heading, then one paragraph per finding, serious ones first."""
    lines = wrap(_heading(report), width)
    for finding in report["findings"]:
        style = BOLD_RED if finding["level"] == SERIOUS else YELLOW
        lines += [[], [(finding["level"], style), (f"  {finding['code']}", PLAIN)], *_details(finding, width)]
    for topic in report["not_examined"]:
        lines += [[], *wrap([(f"not examined: {topic}", DIM)], width)]
    return lines


def _heading(report: dict[str, Any]) -> Line:
    serious, findings = report["serious"], report["findings"]
    text = f" · version {report['version']}"
    if report["images"] is not None:
        text += f" · {report['images']:,} image{'' if report['images'] == 1 else 's'}"
    text += (
        f" · {serious} serious, {len(findings) - serious} to check" if findings else " · no problems found"
    )
    return [(report["dataset"], BOLD), (text, PLAIN)]


def _details(finding: dict[str, Any], width: int) -> list[Line]:
    rows = [("found", finding["saw"])]
    if finding["files"]:
        more = finding["count"] - len(finding["files"])
        rows.append(("files", ", ".join(finding["files"]) + (f" and {more:,} more" if more > 0 else "")))
    if finding["moves"] is not None:
        rows.append(("effect", _effect(finding["moves"], finding["code"])))
    rows.append(("fix", finding["do"]))
    cells = [[("", PLAIN), (f"{label:<6}", PLAIN), (text, PLAIN)] for label, text in rows]
    return table([Column(), Column(), Column(shrink="wrap")], cells, width)


def _effect(moves: dict[str, Any], code: str) -> str:
    """Return `the weight of car changes most: 1.204 now, 1.431 (+19 %) after the fix`."""
    before, after = moves["weight"], moves["mended"]
    weight = f"the weight of {moves['name']} changes most"
    if code == "absent_from_split":
        return f"{weight}: {before:.4g} in this split, {after:.4g} in the whole dataset"
    change = f" ({after / before - 1:+.1%})" if before and after else ""
    return f"{weight}: {before:.4g} now, {after:.4g}{change} after the fix"
