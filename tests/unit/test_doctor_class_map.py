"""The doctor finds class maps that were made for other ids, and accepts those that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.classes import class_maps
from statsvc.doctor.report import examine
from support.doctor_tables import report, streets
from support.small_tables import TotalsTable, cityscapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Labels = np.ndarray[Any, Any]

CITYSCAPES = class_maps.builtin("cityscapes")


def raw(maps: Mapping[str, Labels]) -> dict[str, Labels]:
    """Return the label maps with the ids of Cityscapes' files instead of training ids."""
    raw_id = {target: raw for raw, target in CITYSCAPES.targets if target != 255} | {255: 0}
    return {path: np.vectorize(raw_id.__getitem__)(labels) for path, labels in maps.items()}


def test_a_map_of_file_ids_for_training_ids_is_reported() -> None:
    maps = streets(classes=19)
    findings = report(maps, class_map=CITYSCAPES)
    finding = findings["class_map"]
    # Of 0 … 18, the map gives classes to 7, 8, 11, 12, 13 and 17; the others are in the map, as ignored.
    absent = [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert (finding["level"], finding["ids"]) == ("notice", absent)
    assert "13 of the 19 ids" in finding["saw"]
    assert "class map cityscapes" in finding["saw"]
    # 255 alone is outside of the map.
    assert findings["unexpected_ids"]["ids"] == [255]
    assert findings["unexpected_ids"]["do"].startswith("Add them to the class map")
    assert "class_map" not in report(raw(maps), class_map=CITYSCAPES)


def test_a_few_images_do_not_show_that_a_map_is_wrong() -> None:
    for images, reported in ((18, False), (19, True)):
        findings = report(streets(images=images, classes=5), class_map=CITYSCAPES)
        assert ("class_map" in findings) == reported


def test_a_map_that_lacks_most_pixels_is_reported_with_files_instead_of_unexpected_ids() -> None:
    maps = {path: np.where(labels == 255, 255, labels + 100) for path, labels in streets(images=6).items()}
    maps["val/003.png"][:] = 7
    findings = report(maps, class_map=CITYSCAPES)
    assert "unexpected_ids" not in findings
    finding = findings["class_map"]
    assert (finding["level"], finding["count"]) == ("serious", 5)
    assert set(finding["ids"]) == {100, 101, 102, 103, 104, 255}
    assert finding["ids"][0] == 100
    assert "83.3%" in finding["saw"]
    assert set(finding["files"]) == set(maps) - {"val/003.png"}


@pytest.mark.parametrize(("outside", "level"), [(50, None), (51, "serious")])
def test_more_than_half_of_the_pixels_of_imported_totals_are_outside(outside: int, level: str | None) -> None:
    two = class_maps.make_class_map("two", [(0, 0), (1, 1)])
    counts = {0: 60 - outside, 1: 40, 9: outside} if outside <= 60 else {}
    body = examine(TotalsTable(counts, class_map=two), None)
    levels = {finding["code"]: finding["level"] for finding in body["findings"]}
    assert levels == ({"unexpected_ids": "serious"} if level is None else {"class_map": level})


def test_absent_ids_of_imported_totals_are_reported() -> None:
    assert examine(cityscapes(class_map=CITYSCAPES), None)["findings"] == []
    ade20k = class_maps.builtin("ade20k")
    findings = examine(cityscapes(class_map=ade20k), None)["findings"]
    assert [(finding["code"], finding["level"]) for finding in findings] == [("class_map", "notice")]


def test_absent_ids_of_a_class_that_occurs_are_not_reported() -> None:
    maps = streets()
    merging = class_maps.make_class_map("merging", [(0, 0), *((k, 1) for k in range(1, 20)), (255, 255)])
    assert report(maps, class_map=merging) == {}
    reduced = class_maps.builtin("reduce_zero_label")
    assert "class_map" not in report({path: labels + 1 for path, labels in maps.items()}, class_map=reduced)
