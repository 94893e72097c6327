"""`statsvc scan`, `import` and `demo`: the commands that make versions."""

from __future__ import annotations

import math
import re
import signal
import sys
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from statsvc.cli.common import (
    BY_ITSELF,
    current_table,
    home_options,
    json_option,
    needs,
    opened,
    print_json,
    reading_changes,
    trigger_changes,
    trigger_options,
)
from statsvc.cli.progress import pixel_rate, shown
from statsvc.counting import read as read_counting
from statsvc.errors import Conflict, InvalidParameter, NotFound, Unanswerable
from statsvc.objects import is_url, normalized
from statsvc.splits import FOLDERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.counting import Counting
    from statsvc.store.catalog import Catalog
    from statsvc.store.home import Home
    from statsvc.store.records import Dataset
    from workers.lease import Outcome
    from workers.progress import Progress

PLAIN_FOLDERS = {*FOLDERS, "labels", "label", "masks", "mask", "annotations", "gtfine", "gt"}
"""Folder names that say nothing of the dataset: its default name takes the parent's in front."""


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
            "--class-names", metavar="NAMES", help="Names of classes 0, 1, …: a,b,c or a file, one a line."
        ),
        click.option(
            "--class-map",
            metavar="MAP",
            help="Raw id to class id: a built-in map such as cityscapes or camvid, none, or a file.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("source", required=False, metavar="SOURCE")
@click.option("--name", help="Name of the dataset.  [default: after the folder]")
@click.option("--pattern", metavar="GLOB", help="Files to count, for instance '*_labelIds.png'.")
@click.option(
    "--rule", metavar="RULE", help="What an id is: 'id // 1000', a palette's name, or a CSV file r,g,b,id."
)
@click.option("--key", metavar="NAME", help="Which array, member or column holds the labels.")
@click.option(
    "--rows",
    type=click.Choice(["array", "index", "chunk"]),
    help="What one row of an NPY, HDF5 or Zarr array is.  [default: array]",
)
@reading_options
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=FILE",
    help="A split: NAME=FILE with a path or name a line, NAME='GLOB', or a JSON of folds.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where pixels are counted.",
)
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N", help="Dask processes.  [default: one a core]"
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar="N",
    help="Refuse larger label maps before decoding.  [default: 268435456]",
)
@click.option(
    "--max-removed",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of the samples that one scan may lose.  [default: 0.1]",
)
@click.option("--full", is_flag=True, help="Count every sample again.")
@trigger_options
@click.option("--move", is_flag=True, help="Dataset NAME's label maps are in SOURCE, or match GLOB, now.")
@json_option
@home_options
def scan(
    source: str | None,
    name: str | None,
    pattern: str | None,
    rule: str | None,
    key: str | None,
    rows: str | None,
    splits: tuple[str, ...],
    device: str,
    workers: int | None,
    max_pixels: int | None,
    max_removed: float | None,
    full: bool,
    every: str | None,
    watch: bool | None,
    move: bool,
    as_json: bool,
    home: str | None,
    database: str | None,
    store: str | None,
    **reading: Any,
) -> None:
    """Count the label maps in SOURCE, a folder, file or URL; run again, count only what changed.

    SOURCE may be a container, or lie in an object store, with credentials from the environment:
    s3://bucket/prefix, gs://, az://, or one file at https://. Registers the dataset, publishes a
    version, and prints the classes with their weights. SOURCE may be left out for a dataset that is
    registered. Exit code 1 where label maps could not be read.
    """
    try:
        from workers.device import require
        from workers.recompute import MAX_PIXELS, Settings
    except ModuleNotFoundError as error:
        raise needs("workers", error) from error
    if source is None and name is None:
        raise click.UsageError("name a folder or URL of label maps: statsvc scan SOURCE")
    if move and (name is None or (source is None and pattern is None)):
        raise click.UsageError("--move: say which dataset and where: statsvc scan FOLDER --name NAME --move")
    require(device)
    if max_removed is not None and not math.isfinite(max_removed):
        raise click.UsageError("--max-removed: give a share from 0 to 1")
    scanned = trigger_changes(every, watch)
    with opened(home, database, store) as (place, catalog):
        from statsvc.store import triggers

        asked = (rule, key, rows)
        counting = None if asked == (None, None, None) else read_counting(*asked)
        dataset, configured = _registered(
            place, catalog, source, name, pattern, counting, splits, reading, move=move
        )
        triggers.change(catalog, dataset, scanned)
        settings = Settings(device, max_pixels or MAX_PIXELS)
        outcome = _run(place, catalog, dataset, settings, workers, max_removed, full)
        now = catalog.dataset_by_uid(dataset.uid)
        if outcome.error is not None:
            click.echo(f"statsvc: {dataset.name}: {outcome.error}", err=True)
            _name_failures(outcome.progress, said=outcome.error)
            raise click.exceptions.Exit(1)
        progress = outcome.progress
        _tell(now, configured, outcome)
        if any(scanned.values()):
            click.echo(BY_ITSELF, err=True)
        _show(place, catalog, now, progress, as_json)
        if progress.failed:
            raise click.exceptions.Exit(1)


def _registered(
    place: Home,
    catalog: Catalog,
    source: str | None,
    name: str | None,
    pattern: str | None,
    counting: Counting | None,
    splits: tuple[str, ...],
    reading: dict[str, Any],
    *,
    move: bool,
) -> tuple[Dataset, int | None]:
    """Return the dataset meant, registered and configured as the options say.

    With it, the number of the version that this made, if the counts are to be read in another way.
    """
    from statsvc.configuration import Configuration
    from statsvc.store.configuring import applied, changed, fitting
    from statsvc.store.publication import configure
    from workers.sources import open_source

    changes = reading_changes(splits=splits, **reading)
    place_of = None if source is None else _location(source)
    if name is not None:
        known = _named(catalog, name, place_of, pattern, move=move)
    else:
        known = _at(catalog, place_of, pattern)
    if known is None:
        if source is None:
            raise NotFound(f"there is no dataset {name!r} yet; give its folder too: statsvc scan SOURCE")
        found = open_source(source, pattern)
        counted = Configuration() if counting is None else Configuration(counting=counting)
        configuration = fitting(applied(counted, changes))
        name = default_name(found.root) if name is None else name
        try:
            return catalog.create_dataset(name, found.root, found.pattern, configuration), None
        except Conflict:
            # Another scan may have registered the same files since we looked.
            known = _named(catalog, name, place_of, pattern, move=False)
            if known is None:
                raise
    if counting is not None and counting != known.configuration.counting:
        raise Conflict(
            f"{known.name} is counted by {known.configuration.counting}, not {counting}; other counts are "
            "another dataset: choose another name with --name"
        )
    change = changed(catalog, place.store, known, changes)
    configured, record = configure(catalog, place.store, known, change)
    made = record is not None and record.kind == "configuration" and record.number != known.current_number
    return configured, record.number if record is not None and made else None


def _location(source: str) -> tuple[str, str | None]:
    """Return the folder or URL that SOURCE means and, for one file, the pattern that means it alone."""
    from workers.sources import one_file, open_source

    if is_url(source):
        one = one_file(source)
        return (normalized(source), None) if one is None else (one.root, one.pattern)
    where = Path(source).expanduser()
    if where.is_dir():
        return _resolved(source), None
    one = open_source(source, None)
    return _resolved(one.root), one.pattern


def _resolved(source: str) -> str:
    """Return a source as it is compared: a path without links, a URL as it is."""
    return source if is_url(source) else str(Path(source).expanduser().resolve())


def _named(
    catalog: Catalog,
    name: str,
    location: tuple[str, str | None] | None,
    pattern: str | None,
    *,
    move: bool,
) -> Dataset | None:
    """Return the dataset of that name; a dataset is its folder and its pattern, so both must be the same.

    With `move`, or where its pattern was never found out, it means the given files from now on.
    """
    known = next((dataset for dataset in catalog.datasets() if dataset.name == name), None)
    if known is None or (location is None and pattern is None):
        if move:
            raise NotFound(f"there is no dataset {name!r} to move; leave --move out to register it")
        return known
    folder, file = location or (None, None)
    wanted = file or pattern
    if known.source is None:
        raise Conflict(f"{name} is a table of imported counts; choose another name with --name")
    if move or (known.pattern is None and folder in (None, _resolved(known.source))):
        return _moved(catalog, known, folder, wanted)
    instead = (
        f"choose another name with --name, or, if its label maps are there now, add --name {name} --move"
    )
    if folder is not None and _resolved(known.source) != folder:
        raise Conflict(f"{name} is {known.source}, not {folder}; {instead}")
    if wanted != known.pattern and (wanted is not None or _is_file(known)):
        raise Conflict(f"{name} counts the files {known.pattern!r} in {known.source}; {instead}")
    return known


def _moved(catalog: Catalog, known: Dataset, folder: str | None, pattern: str | None) -> Dataset:
    """Return the dataset, registered over the files that it means now. Raises `SourceError` for none."""
    from statsvc.store.configuring import moved
    from workers.sources import Source, list_samples, open_source

    def choose(now: Dataset) -> tuple[str, str | None]:
        root = str(folder or now.source)
        kept = None if _is_file(now) else now.pattern
        wanted = pattern or kept
        if wanted is None:
            found = open_source(root, None)
            return found.root, found.pattern
        list_samples(Source(root, wanted))
        return root, wanted

    return moved(catalog, known, choose)


def _at(catalog: Catalog, location: tuple[str, str | None] | None, pattern: str | None) -> Dataset | None:
    """Return the dataset over that folder and pattern; a usage error where several could be meant."""
    if location is None:
        return None
    folder, file = location
    wanted = file or pattern
    found = [
        dataset
        for dataset in catalog.datasets()
        if dataset.source is not None
        and _resolved(dataset.source) == folder
        and (dataset.pattern == wanted if wanted is not None else not _is_file(dataset))
    ]
    if len(found) > 1:
        names = ", ".join(dataset.name for dataset in found)
        raise click.UsageError(f"several datasets are counted from {folder}: give --name, one of {names}")
    return found[0] if found else None


def _is_file(dataset: Dataset) -> bool:
    return dataset.pattern is not None and dataset.pattern.startswith("/")


def default_name(root: str) -> str:
    """Return a dataset name made from its folder or URL: `camvid-train` for `…/camvid/train`."""
    url = urlsplit(root)
    folder = PurePosixPath(url.netloc + unquote(url.path)) if is_url(root) else Path(root).resolve()
    parts = [folder.name]
    if folder.name.lower() in PLAIN_FOLDERS and folder.parent.name:
        parts.insert(0, folder.parent.name)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts)).strip("-._")
    return name[:100] or "dataset"


def _run(
    place: Home,
    catalog: Catalog,
    dataset: Dataset,
    settings: Any,
    workers: int | None,
    max_removed: float | None,
    full: bool,
) -> Outcome:
    """Run a job of this dataset here, after any that another process runs now."""
    from statsvc.store import jobs
    from workers.cluster import LocalCluster
    from workers.lease import execute
    from workers.progress import Progress

    owner = jobs.process_identity()
    allowed = jobs.MAX_REMOVED if max_removed is None else max_removed
    while (job := jobs.submit_leased(catalog, dataset, owner, full=full, max_removed=allowed)) is None:
        _follow(catalog, dataset)
    progress = Progress()
    cluster = LocalCluster(workers)
    try:
        with shown(progress.to_dict):
            return execute(catalog, place.store, job, cluster, settings, progress, retry=False)
    except KeyboardInterrupt:
        # Whoever presses it again is heard already: what follows only ends the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        click.echo(
            "statsvc: stopped; what was counted so far is kept, and the next scan goes on from there",
            err=True,
        )
        raise click.exceptions.Exit(1) from None
    finally:
        cluster.close()


def _follow(catalog: Catalog, dataset: Dataset) -> None:
    """Show the job that another process runs until it ends or its process dies."""
    from statsvc.store import jobs
    from statsvc.store.records import RUNNING

    running = [job for job, _ in jobs.recent(catalog, dataset) if job.state == RUNNING]
    if not running:
        return
    job = running[0]
    click.echo(f"statsvc: job {job.id} of {dataset.name} runs in another process; following it", err=True)
    with shown(lambda: dict(jobs.get(catalog, job.id).progress)):
        while jobs.get(catalog, job.id).state == RUNNING and not jobs.lapsed(catalog, job.id):
            time.sleep(0.5)


def _tell(dataset: Dataset, configured: int | None, outcome: Outcome) -> None:
    """Say on stderr what the scan did and which samples it could not read.

    configured  number of the version that options of this scan made of the same counts, if any
    """
    name, progress = dataset.name, outcome.progress
    what = f"{progress.counted} counted, {progress.reused} unchanged"
    if progress.recovered:
        what += f", {progress.recovered} of the counted kept from a scan that did not finish"
    if progress.removed:
        what += f", {progress.removed} removed"
    if progress.failed:
        what += f", {progress.failed} could not be read"
    if outcome.version is not None:
        version = f"version {outcome.version.number}"
    elif configured is not None:
        version = f"version {configured}, the same counts read in another way"
    else:
        version = "no new version"
    speed = f" ({pixel_rate(progress.rate())})" if progress.pixels else ""
    click.echo(f"{name}: {what}{speed}; {version}", err=True)
    _name_failures(progress, f": statsvc datasets {name}")


def _name_failures(progress: Progress, where: str = "", said: str = "") -> None:
    """Say on stderr which samples could not be read, but for what is `said`, and `where` the others are."""
    for path, reason in progress.failures:
        if (line := f"{path}: {reason}") not in said:
            click.echo(f"  {line}", err=True)
    if (more := progress.failed - len(progress.failures)) > 0:
        click.echo(f"  … and {more} more{where}", err=True)


def _show(place: Home, catalog: Catalog, dataset: Dataset, progress: Progress, as_json: bool) -> None:
    from statsvc.answers import answer
    from statsvc.display import print_class_table
    from statsvc.doubts import doubts
    from statsvc.spec import WeightSpec

    answered = None
    table = current_table(place, catalog, dataset)
    for line in doubts(table):
        click.echo(f"statsvc: {line}", err=True)
    try:
        answered = answer(table, WeightSpec())
    except Unanswerable as error:
        click.echo(f"statsvc: no weights: {error}", err=True)
    if as_json:
        print_json({"scan": progress.to_dict(), "weights": answered})
    elif answered is not None:
        print_class_table(answered, file=sys.stdout)


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name of the dataset.")
@reading_options
@home_options
def import_counts(
    file: Path, name: str, home: str | None, database: str | None, store: str | None, **reading: Any
) -> None:
    """Make a version of counts taken elsewhere.

    FILE is JSON, {"7": 2036416525, …} (raw id to pixels), CSV with the columns id, pixels and, where
    known, images (in how many images the class occurs), or DAFormer's sample_class_stats.json, which
    has the counts of each image.
    """
    from statsvc.answers import answer
    from statsvc.display import print_class_table
    from statsvc.imports import read_counts
    from statsvc.spec import WeightSpec

    counts = read_counts(file)
    with opened(home, database, store) as (place, catalog):
        from statsvc.store.importing import import_counts as publish

        record = publish(catalog, place.store, name, counts, reading_changes(**reading))
        click.echo(f"{name}: version {record.number} from {file}", err=True)
        table = current_table(place, catalog, catalog.dataset(name))
        try:
            print_class_table(answer(table, WeightSpec()), file=sys.stdout)
        except Unanswerable as error:
            click.echo(f"statsvc: no weights: {error}", err=True)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", type=click.IntRange(1, 1_000_000), default=240, show_default=True)
@click.option("--size", default="512x256", show_default=True, metavar="WxH")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo(folder: Path, images: int, size: str, seed: int) -> None:
    """Draw label maps of synthetic street scenes into FOLDER, with train and val folders to scan.

    The same seed draws the same label maps. Class names are written to FOLDER/classes.txt, for
    --class-names.
    """
    from statsvc.demo import CLASS_NAMES, make_demo

    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise InvalidParameter(("size", f"{size!r}: write WIDTHxHEIGHT, for instance 2048x1024"))
    make_demo(folder, images=images, size=(int(match[1]), int(match[2])), seed=seed)
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n", encoding="utf-8")
    click.echo(f"{images} label maps of {size} in {folder}; count them with:", err=True)
    click.echo(f"  statsvc scan {folder} --class-names {folder / 'classes.txt'}", err=True)
