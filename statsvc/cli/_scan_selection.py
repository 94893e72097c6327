"""`statsvc scan --dry-run`: which files a scan would count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.cli._echo import echo
from statsvc.cli._options import print_json
from statsvc.common.utf8 import printable
from statsvc.dataset.counting_rule import VALUE
from statsvc.dataset.counting_rule import read as read_counting
from statsvc.dataset.selection import quoted
from statsvc.errors import Conflict

if TYPE_CHECKING:
    from statsvc.cli._home import HomeOptions
    from statsvc.dataset.known_layouts import Layout


def show_selection(
    options: HomeOptions,
    location: str | None,
    name: str | None,
    pattern: str | None,
    layout: Layout | None,
    rule: str | None,
    key: str | None,
    rows: str | None,
    as_json: bool,
) -> None:
    """Print which files a scan would count; nothing is registered.

    A source is inspected as at its first scan; without one, the files of dataset `name` are listed.
    """
    from statsvc.dataset import splits
    from statsvc_workers.sources.list_samples import list_samples
    from statsvc_workers.sources.listing import Source
    from statsvc_workers.sources.sources import open_source

    counting = read_counting(rule, key, rows)
    if location is not None:
        if layout is not None and pattern is None:
            pattern = layout.pattern
        source = open_source(location, pattern, counting, layout=layout, trusted=rule == VALUE)
    else:
        with options.open() as (_, catalog):
            dataset = catalog.dataset(str(name))
        if dataset.source is None or dataset.pattern is None:
            raise Conflict(
                f"{dataset.name} has no files to list: it contains imported counts, or no scan ran"
            )
        source = Source(dataset.source, dataset.pattern, dataset.configuration.selection)
        counting = dataset.configuration.counting
    listing = list_samples(source, counting)
    found = [str(path) for path in listing.path]
    detected = dict(source.splits) or splits.detect(found)
    samples = {split: sum(map(members.contains, found)) for split, members in detected.items()}
    if as_json:
        selection = None if source.selection is None else source.selection.to_dict()
        print_json(
            {
                "source": source.root,
                "pattern": source.pattern,
                "samples": len(found),
                "unreadable": len(listing.unreadable),
                "splits": samples,
                "selection": selection,
            }
        )
        return
    echo(f"source: {source.root}")
    echo(f"pattern: {quoted(source.pattern)}")
    for line in source.selection.lines() if source.selection is not None else ():
        echo(printable(line))
    in_splits = "".join(f", {split} {count}" for split, count in samples.items())
    echo(f"samples: {len(found)}{in_splits}")
