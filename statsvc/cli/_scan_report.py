"""What `statsvc scan` prints about its job on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.cli._echo import echo
from statsvc.cli._progress import pixel_rate

if TYPE_CHECKING:
    from statsvc.store.catalog.records import Dataset
    from statsvc_workers.jobs.lease import Outcome
    from statsvc_workers.jobs.progress import Progress

LISTED_PATHS = 5
"""Samples that are named for each reason why samples could not be read."""


def print_outcome(dataset: Dataset, configured_version: int | None, outcome: Outcome) -> None:
    """Print on stderr what the scan counted and which samples it could not read.

    configured_version  number of the version that this scan's options made of the same counts, if any
    """
    name, progress = dataset.name, outcome.progress
    text = f"{progress.counted} counted, {progress.reused} unchanged"
    if progress.recovered:
        text += f", {progress.recovered} of the counted recovered from an interrupted scan"
    if progress.removed:
        text += f", {progress.removed} removed"
    if progress.failed:
        text += f", {progress.failed} could not be read"
    if outcome.version is not None:
        version = f"version {outcome.version.number}"
        if (of := outcome.version.configuration.sampled_from) is not None:
            drawn = (outcome.version.samples or 0) + outcome.version.failed
            version += (
                f", an estimate from {drawn:,} of {of:,} label maps; a scan without --samples completes it"
            )
    elif configured_version is not None:
        version = f"version {configured_version}, the same counts with another configuration"
    else:
        version = "no new version"
    speed = f" ({pixel_rate(progress.rate())})" if progress.pixels else ""
    echo(f"{name}: {text}{speed}; {version}", err=True)
    print_failures(progress, see=f". List them with: statsvc datasets {name}")


def print_failures(progress: Progress, *, see: str = "", already_printed: str = "") -> None:
    """Print on stderr the samples that could not be read: each reason once, with the number of samples.

    see              where to find the samples beyond the first ones
    already_printed  text whose reasons are not repeated
    """
    paths_of: dict[str, list[str]] = {}
    for path, reason in progress.failures:
        paths_of.setdefault(reason, []).append(path)
    for reason, paths in paths_of.items():
        is_printed = reason in already_printed
        shown = [path for path in paths if not is_printed or f"{path}: {reason}" not in already_printed]
        shown = shown[:LISTED_PATHS]
        others = progress.reasons.get(reason, len(paths)) - (len(paths) if is_printed else len(shown))
        if shown:
            more = f" and {others} other{'' if others == 1 else 's'}" if others > 0 else ""
            text = "the same reason" if is_printed else reason
            echo(f"  {', '.join(shown)}{more}: {text}", err=True)
    counted = sum(progress.reasons.get(reason, len(paths)) for reason, paths in paths_of.items())
    if (more_failed := progress.failed - counted) > 0:
        echo(f"  … and {more_failed} more{see}", err=True)
