"""The doctor's report on a version: all findings, serious ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.common.plurals import plural
from statsvc.dataset import class_counts
from statsvc.doctor import (
    class_map,
    classes,
    conversions,
    edges,
    files,
    groups,
    ids,
    objects,
    positions,
    reductions,
    repeats,
    swaps,
    values,
)
from statsvc.doctor.facts import FileFacts, gather
from statsvc.doctor.finding import SERIOUS, Finding
from statsvc.doctor.interpretation import SPEC, Interpretation
from statsvc.weighting import weight_warnings
from statsvc.weighting.response import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from statsvc.dataset.table import Table
    from statsvc.doctor.edges import ReadPixels
    from statsvc.doctor.facts import Facts

EDGES_SKIPPED = "Blended edges between class ids: finding them needs pixels, and no label map was read."
FILES_SKIPPED = "Files and splits"
SHAPES_SKIPPED = "Sizes, pixel types and copies: the imported counts do not include them."


def examine(
    table: Table,
    array: Callable[[str], np.ndarray[Any, Any]] | None,
    read_pixels: ReadPixels | None = None,
) -> dict[str, Any]:
    """Return the report on a table as JSON.

    array        returns a per-sample array of the version by name; None for a table without rows
    read_pixels  yields the pixels of a sample as 2-D blocks; None to skip the finding that needs them

    Raises `DamagedVersion` if an array differs from what was written, and `Unanswerable` if the ids cannot
    be interpreted as classes.
    """
    found: list[Finding] = []
    not_examined = []
    files_read = 0
    if array is None:
        not_examined.append(f"{FILES_SKIPPED}: {table.why_no_rows()}.")
        found += _findings_from_totals(table)
    else:
        facts = gather(table, FileFacts.of(array))
        found += findings(facts)
        found += groups.held_by_one_group(table, facts.interpretation)
        found += objects.small_objects(table, facts.interpretation)
        found += repeats.repeated(facts, read_pixels)
        if read_pixels is not None and not any(finding.code == "interpolated" for finding in found):
            finding, files_read = edges.blended(facts, read_pixels)
            found += [] if finding is None else [finding]
        if facts.counted and not facts.files.height.any():
            not_examined.append(SHAPES_SKIPPED)
    if not files_read:
        not_examined.append(EDGES_SKIPPED)
    if table.sampled_from is not None:
        counted = (table.totals().samples or 0) + table.failed()
        not_examined.append(
            f"{table.sampled_from - counted:,} of {plural(table.sampled_from, 'label map')}: this version is "
            "an estimate from a random sample, and a scan without --samples counts the others."
        )
    found.sort(key=lambda finding: (finding.level != SERIOUS, -_relative_change(finding)))
    return {
        "dataset": table.dataset,
        "version": table.version,
        "images": table.totals().samples,
        "weights": {"method": SPEC.method, "split": None},
        "serious": sum(finding.level == SERIOUS for finding in found),
        "findings": [finding.to_dict() for finding in found],
        "looked_at": files_read,
        "not_examined": not_examined,
        "schema": SCHEMA,
    }


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield every finding. Ids that one of them explains are not reported as unexpected, too."""
    explained: set[int] = set()
    for check in (
        values.binary_masks,
        values.images,
        conversions.interpolated,
        conversions.greyed_colours,
        conversions.swapped_bytes,
        conversions.wrong_sign,
        values.nodata,
        reductions.reduced_twice,
        reductions.reduced_partly,
        ids.two_voids,
        files.pixel_types,
        files.odd_sizes,
        files.duplicates,
    ):
        if (finding := check(facts)) is not None:
            explained |= set(finding.ids)
            yield finding
    for check in (values.instance_ids, swaps.swapped_classes):
        if not explained and (finding := check(facts)) is not None:
            explained |= set(finding.ids)
            yield finding
    for check_unexplained in (ids.not_of_class_map, ids.unexpected):
        if (finding := check_unexplained(facts, explained)) is not None:
            explained |= set(finding.ids)
            yield finding
    yield from files.unreadable(facts)
    yield from files.without_classes(facts)
    yield from files.leakage(facts)
    yield from classes.absent_from_split(facts, explained)
    yield from classes.hangs_on_one_file(facts, explained)
    yield from positions.check(facts)


def _findings_from_totals(table: Table) -> Iterator[Finding]:
    """Yield the findings that totals allow: a wrong class map, or unexpected ids."""
    counts = Interpretation(table).counts
    if counts.class_map is not None:
        totals = table.totals()
        finding = class_map.made_for_other_ids(
            counts.class_map, totals.class_id, totals.pixels, totals.samples
        )
        if finding is not None:
            yield finding
            if finding.level == SERIOUS:
                return
    if unexpected := class_counts.unexpected_ids(table, counts, None):
        yield Finding(
            "unexpected_ids",
            SERIOUS,
            weight_warnings.unexpected_text(unexpected, counts),
            "Ignore them, make them classes, or map them to classes in the class map.",
            ids=tuple(entry["id"] for entry in unexpected),
        )


def _relative_change(finding: Finding) -> float:
    """Return how much a finding changes a weight, relative to the larger weight."""
    if finding.moves is None:
        return 0.0
    before, after = finding.moves["weight"], finding.moves["mended"]
    return float(abs(after - before) / max(before, after, 1e-300))
