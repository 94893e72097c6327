"""The checks after a run. What clients saw and what is stored is compared with the files of that time."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from statsvc.store.catalog import jobs as job_rows
from statsvc.store.catalog import tags
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from support.chaos.changing_folder import CLASSES
from support.chaos.http import send
from support.chaos.installation import Children
from support.chaos.readers import PATHS
from support.chaos.writers import IMPORTED, TAG
from support.moved_clock import TOLERANCE
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.catalog.records import Job, VersionRecord
    from support.chaos.changing_folder import ChangingFolder
    from support.chaos.installation import Installation
    from support.chaos.record import Record
    from support.chaos.tally import Tally
    from support.chaos.writers import Operator

Rows: TypeAlias = "Mapping[str, Mapping[int, int] | None]"
"""Counts of each sample of a version, by path; None: it could not be read."""


def check(
    installation: Installation,
    folders: Mapping[str, ChangingFolder],
    record: Record,
    operator: Operator,
    tally: Tally,
) -> None:
    """Check everything, and write the numbers into the tally. Raises `AssertionError`."""
    check_order(record, tally)
    catalog = Catalog.open(installation.home.database)
    try:
        jobs = {job_id: job_rows.get(catalog, job_id) for job_id in record.jobs}
        _check_jobs(jobs, record, tally)
        groups: set[str] = set()
        for name, folder in folders.items():
            records = catalog.versions(catalog.dataset(name), 100_000)
            groups |= _groups(records)
            assert [each.number for each in records] == list(range(len(records), 0, -1))
            published = [each.job_id for each in records]
            assert len(set(published)) == len(published), "a job published two versions"
            _check_versions(installation, catalog, name, folder, records[::-1], record, tally)
            assert is_current(installation, folder, name), f"{name} does not contain the files of its folder"
        if record.imports:
            groups |= _check_imports(installation, catalog, record, tally)
        _check_tags(catalog, record)
        wait_for(lambda: operator.collect("0s"))
        assert installation.stored() == groups, "gc left an orphan or a checkpoint"
        _check_pinned(installation, record)  # without the rows of old versions, which clients saw with them
    finally:
        catalog.close()
    tally.reads = {name: len(times) for name, times in record.answered.items()}
    tally.measure_gaps(record.answered)
    tally.missed = sum(each.missed for each in installation.victims.values() if isinstance(each, Children))
    tally.unanswered, tally.rejected = record.unanswered, record.rejected
    tally.repeated, tally.tagged, tally.cancelled = record.repeated, record.tagged, len(record.cancelled)
    tally.gc, tally.orphans, tally.expired = record.gc, record.orphans, record.expired
    tally.answers = len(record.weights) + len(record.histograms) + len(record.samples)
    wrong = record.violations + tally.resources.leaks()
    assert not wrong, f"{len(wrong)} violations:\n" + "\n".join(wrong)


def check_order(record: Record, tally: Tally) -> None:
    """Check that no answer has an older version than one that any client had seen before its request.

    An answer from memory is as old as its `Age` says, and no older.
    """
    by_dataset: dict[str, list[tuple[float, int]]] = {}
    for seen in sorted(record.sightings, key=lambda each: each.received):
        best = by_dataset.setdefault(seen.dataset, [(float("-inf"), 0)])
        if seen.version > best[-1][1]:
            best.append((seen.received, seen.version))
    for seen in record.sightings:
        if seen.client is None:
            continue
        # An age is rounded down, and counts from the moment at which the catalog was read.
        read_at = seen.sent - (0.0 if seen.age is None else seen.age + 1.0)
        known = max(version for at, version in by_dataset[seen.dataset] if at < read_at or version == 0)
        if seen.version < known:
            record.violate(f"{seen.dataset}: {seen} although version {known} had been seen before")
        if seen.age is not None:
            tally.old_reads += 1
            tally.oldest = max(tally.oldest, seen.age)


def _check_jobs(jobs: Mapping[str, Job], record: Record, tally: Tally) -> None:
    """Check that every job ended, and that every job without success has a reason."""
    tally.jobs = len(jobs)
    for job_id, job in jobs.items():
        tally.ended[job.state] += 1
        tally.attempts[job.attempt] += 1
        assert job.state in {"succeeded", "failed", "cancelled"}, f"job {job_id} is {job.state}"
        if job.state == "succeeded":
            assert not job.error, f"job {job_id} succeeded with the error {job.error}"
            continue
        tally.causes[f"{job.state}: {_kind(job.error or '')}"] += 1
        assert job.error, f"job {job_id} {job.state} without a reason"
        if job.state == "cancelled":
            superseded = re.match(r"superseded by job (\w+)", job.error)
            assert superseded or job_id in record.cancelled, f"nobody cancelled job {job_id}: {job.error}"


def _kind(error: str) -> str:
    """Return an error without its numbers and paths."""
    return re.sub(r"[0-9a-f]{12}|/\S+|\d+", "…", error)[:110]


def _groups(records: list[VersionRecord]) -> set[str]:
    return {uri for record in records for uri in (record.group_uri, record.arrays_uri)}


def _check_versions(
    installation: Installation,
    catalog: Catalog,
    name: str,
    folder: ChangingFolder,
    versions: list[VersionRecord],
    record: Record,
    tally: Tally,
) -> None:
    """Compare the versions of a dataset, oldest first, with the files, and answers with their sums."""
    base: Rows = {}
    for version in versions:
        key = (name, version.number)
        rows = _stored_rows(installation, folder, name, version)
        if rows is None:
            rows = record.samples.get(key) or None
        elif seen := record.samples.get(key):
            assert seen == rows, f"{name} version {version.number}: the samples that a client read are others"
        if rows is None:
            base = {}
            continue
        assert version.job_id is not None
        job = job_rows.get(catalog, version.job_id)
        begin = min(installation.clock.true_times(job.started_at or 0.0)) - TOLERANCE
        end = max(installation.clock.true_times(version.created_at)) + TOLERANCE
        named = None if job.named is None else record.named.get(job.id, set())
        check_rows(f"{name} version {version.number}", rows, folder, (begin, end), named, base)
        _check_answers(key, rows, record)
        tally.versions += 1
        tally.rows += len(rows)
        base = rows


def _stored_rows(
    installation: Installation, folder: ChangingFolder, name: str, record: VersionRecord
) -> Rows | None:
    """Read a version with all its digests; return its rows, None if gc removed them."""
    version = open_version(installation.home.store, name, record)
    version.verify()  # compares the digests, and the aggregates with the sums of the rows
    if record.expired_at is not None:
        return None
    paths = version.array("path").tolist()
    assert paths == sorted(set(paths)), "a sample occurs twice"
    ids = version.array("class_id").tolist()
    counts = np.concatenate([block.counts for block in version.blocks()]).tolist()
    status, contents = version.array("status").tolist(), version.array("content").tolist()
    rows: dict[str, dict[int, int] | None] = {}
    for path, row, unreadable, content in zip(paths, counts, status, contents, strict=True):
        rows[path] = None if unreadable else {i: n for i, n in zip(ids, row, strict=True) if n}
        assert unreadable or folder.counts[content] == rows[path], f"{path} was counted wrongly"
    return rows


def check_rows(
    what: str,
    rows: Rows,
    folder: ChangingFolder,
    period: tuple[float, float],
    named: set[str] | None,
    base: Rows,
) -> None:
    """Compare the rows of a version with the contents of the files while its job ran.

    named  paths that the job checked, which took all other rows from `base`; None: it listed the folder
    base   the rows of the version before
    """
    for path in {*rows, *folder.history}:
        counts = rows.get(path)
        taken_over = named is not None and path not in named and (path in rows) == (path in base)
        if taken_over and counts == base.get(path):
            continue
        if counts is None:
            # Not in the version, or in it as unreadable: the file was removed after it was listed.
            assert folder.had(path, None, *period), f"{what}: {path} is missing, but existed all the time"
        else:
            assert folder.had_counts(path, counts, *period), f"{what}: {path} never had these counts then"


def _check_answers(key: tuple[str, int], rows: Rows, record: Record) -> None:
    """Compare the weights and the histogram that clients received for a version with the sum of its rows."""
    counted = [counts for counts in rows.values() if counts is not None]
    table = np.array([[counts.get(each, 0) for each in range(CLASSES)] for counts in counted])
    pixels, images = table.sum(axis=0), (table > 0).sum(axis=0)
    if (answer := record.histograms.get(key)) is not None:
        classes = json.loads(answer[1])["classes"]
        assert [each["pixels"] for each in classes] == pixels.tolist(), (
            f"wrong pixels in the histogram of {key}"
        )
        assert [each["images"] for each in classes] == images.tolist(), (
            f"wrong images in the histogram of {key}"
        )
    if (answer := record.weights.get(key)) is not None:
        weights = 1 / np.sqrt(pixels / pixels.sum())
        expected = weights / weights.mean()
        np.testing.assert_allclose(json.loads(answer[1])["weights"], expected, rtol=1e-12, err_msg=str(key))


def is_current(installation: Installation, folder: ChangingFolder, name: str) -> bool:
    """Whether the current version of a dataset has exactly the files of its folder."""
    catalog = Catalog.open(installation.home.database)
    try:
        record = catalog.version(catalog.dataset(name))
    finally:
        catalog.close()
    version = open_version(installation.home.store, name, record)
    stored = dict(zip(version.array("path").tolist(), version.array("content").tolist(), strict=True))
    return stored == folder.contents()


def _check_imports(installation: Installation, catalog: Catalog, record: Record, tally: Tally) -> set[str]:
    """Check that acknowledged imports are versions, and all versions were imported; return the groups."""
    versions = catalog.versions(catalog.dataset(IMPORTED), 100_000)
    sent = Counter(tuple(counts.items()) for counts in record.imports)
    for version in versions:
        response = send(f"{installation.apis[0]}/datasets/{IMPORTED}/histogram?version={version.number}")
        counts = {str(each["id"]): each["pixels"] for each in response.json()["classes"]}
        assert record.imported.get(version.number, counts) == counts, (
            f"import {version.number} has other counts"
        )
        sent[tuple(counts.items())] -= 1
    assert min(sent.values()) >= 0, (
        "a version has counts that nobody imported, or that were imported once only"
    )
    assert set(record.imported) <= {version.number for version in versions}, "an acknowledged import is lost"
    tally.imports = len(versions)
    return _groups(versions)


def _check_tags(catalog: Catalog, record: Record) -> None:
    """Check that each tag names a version to which a client set it."""
    for dataset, tag in record.tags.items():
        number = tags.of(catalog, catalog.dataset(dataset)).get(TAG)
        assert number in tag.possible or (number, tag.acknowledged) == (None, None), (
            f"the tag of {dataset} names version {number}, but it is {tag}"
        )


def _check_pinned(installation: Installation, record: Record) -> None:
    """Check that each server still gives the same answer for every version that a client has seen."""
    for kind in PATHS:
        for (dataset, number), (etag, body) in getattr(record, kind).items():
            for url in installation.apis:
                response = send(f"{url}/{PATHS[kind].format(dataset)}&version={number}")
                same = (response.status, response.headers["ETag"], response.body) == (200, etag, body)
                assert same, f"{kind} of {dataset} version {number} changed: {response.body[:300]!r}"
