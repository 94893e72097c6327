"""Histograms of tables, compared with sums over dictionaries of Python integers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statsvc.classes.class_maps import ClassMap
from statsvc.dataset.histogram import Aggregator
from statsvc.dataset.splits import Split, detect
from statsvc.errors import NotFound, Unanswerable
from support.small_tables import TotalsTable, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.table import Table

RAW = [-1, 0, 1, 2, 3, 7, 255, 300]
FOLDERS = ["train", "val", "test", "extra", "train/val"]
Row = dict[int, int]

rows = st.lists(
    st.tuples(
        st.sampled_from(FOLDERS),
        st.dictionaries(st.sampled_from(RAW), st.integers(0, 2**40) | st.integers(2**53, 2**57), max_size=6),
    ),
    min_size=1,
    max_size=8,
)
maps = st.none() | st.dictionaries(st.sampled_from(RAW), st.sampled_from([-1, 0, 1, 2, 255]), min_size=1).map(
    lambda targets: ClassMap("test", tuple(sorted(targets.items())))
)


def expected(samples: Sequence[Row], class_map: ClassMap | None, ids: Sequence[int]) -> dict[str, Any]:
    """Return the expected histogram; internally, keys are (in the class map, id)."""
    targets = dict(class_map.targets) if class_map else {raw: raw for raw in ids}
    keys = {raw: (raw in targets, targets.get(raw, raw)) for raw in ids}
    merged = []
    for sample in samples:
        row: defaultdict[tuple[bool, int], int] = defaultdict(int)
        for raw, pixels in sample.items():
            row[keys[raw]] += pixels
        merged.append(row)
    order = sorted(set(keys.values()), key=lambda key: (not key[0], key[1]))
    return {
        "class_id": [key[1] for key in order],
        "mapped": [key[0] for key in order],
        "pixels": [sum(row[key] for row in merged) for key in order],
        "images": [sum(row[key] > 0 for row in merged) for key in order],
        "cooccurrence": [[sum(row[k] for row in merged if row[c] > 0) for k in order] for c in order],
        "samples": len(samples),
    }


def as_dict(histogram: Histogram) -> dict[str, Any]:
    return {
        name: np.asarray(getattr(histogram, name)).tolist()
        for name in ("class_id", "mapped", "pixels", "images", "cooccurrence", "samples")
    }


def table_in_folders(samples: Sequence[tuple[str, Row]], failed: Mapping[str, str] | None = None) -> Table:
    paths = [f"{folder}/{number:02}.png" for number, (folder, _) in enumerate(samples)]
    return table_of([row for _, row in samples], paths, failed, splits=detect(paths))


@given(samples=rows, class_map=maps)
def test_totals_and_histograms_equal_sums_over_dictionaries(
    samples: list[tuple[str, Row]], class_map: ClassMap | None
) -> None:
    ids = sorted({raw for _, row in samples for raw in row})
    table = table_in_folders(samples, {"train/broken.png": "is empty"})
    assert as_dict(table.totals()) == expected([row for _, row in samples], None, ids)
    assert as_dict(table.histogram(class_map=class_map)) == expected(
        [row for _, row in samples], class_map, ids
    )


@given(samples=rows, class_map=maps)
def test_a_histogram_of_a_split_counts_only_its_samples(
    samples: list[tuple[str, Row]], class_map: ClassMap | None
) -> None:
    ids = sorted({raw for _, row in samples for raw in row})
    table = table_in_folders(samples)
    for split in table.configuration.splits:
        # `train/val` is in train: the outermost folder decides.
        inside = [row for folder, row in samples if folder.split("/")[0] == split]
        assert as_dict(table.histogram(split, class_map)) == expected(inside, class_map, ids)


def test_merged_ids_occur_in_every_sample_that_contains_one_of_them() -> None:
    table = table_of([{1: 5, 2: 5}, {1: 3}, {2: 4}, {3: 9}])
    merged = table.histogram(class_map=ClassMap("m", ((1, 0), (2, 0), (3, 1))))
    assert merged.class_id.tolist() == [0, 1]
    assert merged.images is not None
    assert merged.images.tolist() == [3, 1]
    assert merged.pixels.tolist() == [17, 9]


def test_an_unmapped_raw_id_is_not_merged_with_an_equal_class_id() -> None:
    table = table_of([{0: 1, 7: 10}, {7: 5}])
    histogram = table.histogram(class_map=ClassMap("m", ((7, 0),)))
    assert (histogram.class_id.tolist(), histogram.mapped.tolist()) == ([0, 0], [True, False])
    assert histogram.pixels.tolist() == [15, 1]


def test_sums_above_2_to_the_53_are_exact() -> None:
    odd = 2**53 + 1
    histogram = table_of([{0: odd, 1: 1}, {0: odd}, {0: 1, 1: odd}]).totals()
    assert histogram.pixels.tolist() == [2 * odd + 1, odd + 1]
    assert histogram.cooccurrence is not None
    assert histogram.cooccurrence.tolist() == [[2 * odd + 1, odd + 1], [odd + 1, odd + 1]]


def test_sums_of_blocks_below_2_to_the_53_are_exact_above_it() -> None:
    total = Aggregator(2)
    part = np.array([[2**52, 1]], np.int64)
    for _ in range(5):
        total.add(part)
    assert total.pixels.tolist() == [5 * 2**52, 5]
    assert total.cooccurrence.tolist() == [[5 * 2**52, 5], [5 * 2**52, 5]]


def test_unreadable_samples_are_listed_and_not_counted() -> None:
    table = table_of(
        [{0: 4}],
        ["train/a.png"],
        {"val/b.png": "is empty", "val/c.png": "is truncated"},
        splits=detect(["val/b"]),
    )
    assert table.totals().samples == 1
    assert table.failed() == 2
    assert table.failures() == (2, [("val/b.png", "is empty"), ("val/c.png", "is truncated")])
    assert table.failures("val", limit=1) == (2, [("val/b.png", "is empty")])


def test_an_unknown_split_is_rejected_with_the_list_of_splits() -> None:
    table = table_of([{0: 1}], ["train/a.png"], splits={"train": Split(folder="train")})
    with pytest.raises(NotFound, match=r"no split 'trian' \(did you mean 'train'\?\); its splits: train"):
        table.histogram("trian")


def test_totals_without_rows_provide_neither_splits_nor_merged_presence() -> None:
    table = TotalsTable({0: 5, 1: 7, 2: 1}, splits={"train": Split(folder="train")})
    with pytest.raises(Unanswerable, match="contains totals only"):
        table.histogram("train")
    merged = table.histogram(class_map=ClassMap("m", ((0, 0), (1, 0), (2, 1))))
    assert merged.pixels.tolist() == [12, 1]
    assert merged.images is None
    assert merged.cooccurrence is None


def test_samples_with_an_id_are_returned_in_path_order() -> None:
    table = table_of(
        [{0: 1}, {9: 1}, {9: 2}, {9: 3}, {0: 1, 9: 4}],
        ["train/a", "train/b", "val/c", "train/d", "train/e"],
        splits=detect(["train/x", "val/x"]),
    )
    assert table.samples_with([9, 5], "train", limit=2) == {9: ["train/b", "train/d"], 5: []}
