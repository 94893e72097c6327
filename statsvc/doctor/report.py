"""The report on a version: every finding, the serious ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.doctor import classes, edges, files, ids
from statsvc.doctor.basis import SPEC, Basis
from statsvc.doctor.facts import FileFacts, gather
from statsvc.doctor.finding import SERIOUS, Finding
from statsvc.weighting.response import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from statsvc.dataset.table import Table
    from statsvc.doctor.edges import Look
    from statsvc.doctor.facts import Facts

UNSEEN = "edges blended between ids that are classes: this needs pixels, and no label map was read again"
TOTALS = "everything about files and splits"
SHAPES = "sizes, pixel types and copies: these counts were imported, and do not tell"


def examine(
    table: Table, array: Callable[[str], np.ndarray[Any, Any]] | None, look: Look | None = None
) -> dict[str, Any]:
    """Return the report on a table as JSON.

    array  returns a per-sample array of the version by name; None for a table without rows
    look   yields a sample's pixels, for the one finding that needs them; None to do without

    Raises `DamagedVersion` where an array is not what was written, `Unanswerable` where the ids are no
    classes at all.
    """
    found: list[Finding] = []
    unseen = [UNSEEN]
    looked = 0
    if array is None:
        basis = Basis(table)
        unseen.insert(0, f"{TOTALS}: {table.why_no_rows()}")
        found += _of_totals(table, basis)
    else:
        facts = gather(table, FileFacts.of(array))
        found += findings(facts)
        if look is not None and not any(one.code == "interpolated" for one in found):
            one, looked = edges.blended(facts, look)
            found += [] if one is None else [one]
        if looked:
            unseen.remove(UNSEEN)
        if facts.counted and not facts.files.height.any():
            unseen.insert(0, SHAPES)
    found.sort(key=lambda one: (one.level != SERIOUS, -_change(one)))
    return {
        "dataset": table.dataset,
        "version": table.version,
        "images": table.totals().samples,
        "weights": {"method": SPEC.method, "split": None},
        "serious": sum(one.level == SERIOUS for one in found),
        "findings": [one.to_dict() for one in found],
        "looked_at": looked,
        "not_examined": unseen,
        "schema": SCHEMA,
    }


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield every finding; ids that one of them explains are not called unexpected as well."""
    explained: set[int] = set()
    for look in (
        ids.binary_masks,
        ids.interpolated,
        ids.greyed_colours,
        ids.swapped_bytes,
        ids.wrong_sign,
        ids.two_voids,
        files.pixel_types,
        files.odd_sizes,
        files.duplicates,
    ):
        if (one := look(facts)) is not None:
            explained |= set(one.ids)
            yield one
    if (one := ids.unexpected(facts, explained)) is not None:
        yield one
    yield from files.unreadable(facts)
    yield from files.leakage(facts)
    yield from classes.absent_from_split(facts, explained)
    yield from classes.hangs_on_one_file(facts, explained)


def _of_totals(table: Table, basis: Basis) -> Iterator[Finding]:
    """Yield what totals alone tell: unexpected ids."""
    from statsvc.dataset import class_counts
    from statsvc.weighting import weight_warnings

    if unexpected := class_counts.unexpected_ids(table, basis.read, None):
        yield Finding(
            "unexpected_ids",
            SERIOUS,
            weight_warnings.unexpected_text(unexpected, basis.read),
            "ignore them, make them classes, or give them a place in the class map",
            ids=tuple(entry["id"] for entry in unexpected),
        )


def _change(finding: Finding) -> float:
    """Return how far a finding moves a weight, as a share of the larger one."""
    if finding.moves is None:
        return 0.0
    before, after = finding.moves["weight"], finding.moves["mended"]
    return float(abs(after - before) / max(before, after, 1e-300))
