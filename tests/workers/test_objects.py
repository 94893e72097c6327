"""Objects: their number and sizes against the JSON of COCO, pycocotools, and NumPy over instance ids."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO

import statsvc
from statsvc.dataset import counting_rule
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.objects import ObjectAggregator
from statsvc.dataset.splits import Split
from statsvc.errors import DamagedVersion
from statsvc.store import retention
from statsvc_workers.jobs.reader_digest import reader_digest
from support.label_maps import write_png
from support.scans import Workspace, scan_numbers
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.table import Table

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

Sizes = dict[int, list[int]]
"""Raw id → sizes of its objects."""


def joined(parts: Iterable[Mapping[int, list[int]]]) -> Sizes:
    sizes: Sizes = defaultdict(list)
    for part in parts:
        for raw, pixels in part.items():
            sizes[raw] += pixels
    return dict(sizes)


def assert_totals(histogram: Histogram, expected: Mapping[int, list[int]]) -> None:
    """Compare the totals of a histogram with the sizes of all objects."""
    objects = histogram.objects
    assert objects is not None
    ids = histogram.class_id.tolist()
    assert {raw: n for raw, n in zip(ids, objects.count.tolist(), strict=True) if n} == {
        raw: len(sizes) for raw, sizes in expected.items()
    }
    for column, raw in enumerate(ids):
        sizes = np.array(expected.get(raw, []))
        edges = 2 ** np.arange(51)
        assert objects.sizes[column].tolist() == np.histogram(sizes, edges)[0].tolist()
        assert objects.smallest[column] == (sizes.min() if len(sizes) else 0)
        assert objects.median[column] == (np.median(sizes) if len(sizes) else 0)
        for stride in (16, 32):
            assert objects.below(stride)[column] == (sizes < stride**2).sum()


def by_sample(table: Table) -> dict[str, Sizes]:
    """Return the sizes of the objects of each counted sample."""
    found: dict[str, Sizes] = {}
    for block, objects in table.object_blocks():
        assert objects is not None
        for row, path in enumerate(block.path):
            part = objects.take(np.array([row]))
            sizes: Sizes = defaultdict(list)
            for raw, pixels in zip(part.class_id.tolist(), part.pixels.tolist(), strict=True):
                sizes[raw].append(pixels)
            if block.status[row] == 0:
                found[path] = dict(sizes)
            else:
                assert not sizes
    return found


def instance_map(seed: int, shape: tuple[int, int] = (40, 60)) -> NDArray[np.uint16]:
    """Return ids as in Cityscapes: classes below 1000, and objects of the classes 24 to 26."""
    rng = np.random.default_rng(seed)
    ids = np.full(shape, 7, np.uint16)
    ids[: shape[0] // 2] = 23
    for number in range(int(rng.integers(0, 12))):
        top, left, height, width = rng.integers(0, 30, 4).tolist()
        ids[top : top + height + 1, left : left + width + 1] = rng.integers(24, 27) * 1000 + number
    ids[-1, :5] = 26  # a group of cars that are not separated
    return ids


def instance_sizes(ids: NDArray[Any]) -> Sizes:
    sizes: Sizes = defaultdict(list)
    for number, pixels in zip(*np.unique(ids, return_counts=True), strict=True):
        if number >= 1000:
            sizes[int(number) // 1000].append(int(pixels))
    return {raw: sorted(found) for raw, found in sizes.items()}


def write_instances(folder: Path, number: int = 9) -> Path:
    for k in range(number):
        write_png(folder / ("train" if k % 3 else "val") / f"{k}.png", instance_map(k))
    return folder


def folder_sizes(folder: Path) -> dict[str, Sizes]:
    return {
        str(file.relative_to(folder)): instance_sizes(np.asarray(Image.open(file)))
        for file in sorted(folder.glob("**/*.png"))
        if file.name != "broken.png"
    }


def test_the_segments_of_the_real_panoptic_image_are_its_objects() -> None:
    file = SHARED / "panoptic" / "annotations.json"
    expected: Sizes = defaultdict(list)
    for annotation in json.loads(file.read_text())["annotations"]:
        for segment in annotation["segments_info"]:
            expected[segment["category_id"]].append(segment["area"])
    assert sum(map(len, expected.values())) == 18
    assert_totals(statsvc.scan(file).histogram(), expected)


# pycocotools 2.0.11 has no `copy` in its `__array__` yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_the_objects_of_instance_annotations_are_those_of_pycocotools(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    height, width = 50, 70
    images = [{"id": k, "height": height, "width": width, "file_name": f"{k}.jpg"} for k in range(6)]
    annotations: list[dict[str, Any]] = []
    for number in range(40):
        left, top, w, h = rng.integers(0, 40, 4).tolist()
        polygon = [left, top, left + w + 1, top, left + w + 1, top + h + 1, left + 0.5, top + h + 1]
        crowd = np.asfortranarray(rng.random((height, width)) < 0.02, dtype=np.uint8)
        code = masks.encode(crowd)
        segmentation: Any = (
            {"size": [height, width], "counts": code["counts"].decode()} if number % 7 == 0 else [polygon]
        )
        annotations.append(
            {
                "id": number + 1,
                "image_id": int(rng.integers(0, 5)),  # the last image has no object
                "category_id": int(rng.choice([1, 3])),
                "segmentation": segmentation,
                "iscrowd": int(number % 7 == 0),
            }
        )
    # An object that later ones cover completely is one, even if no pixel of its category is left.
    whole = [0, 0, width, 0, width, height, 0, height]
    annotations[0:0] = [
        {"id": 100 + k, "image_id": 5, "category_id": category, "segmentation": [whole], "iscrowd": 0}
        for k, category in enumerate((200, 3))
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 200, "name": "rug"}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))

    table = statsvc.scan(file, splits={"last": ["instances.json/5.jpg"]})
    oracle = COCO(str(file))
    expected: Sizes = defaultdict(list)
    for annotation in oracle.loadAnns(oracle.getAnnIds()):
        expected[annotation["category_id"]].append(int(oracle.annToMask(annotation).sum()))
    assert {c: len(oracle.getAnnIds(catIds=[c])) for c in expected} == {
        c: len(a) for c, a in expected.items()
    }
    assert_totals(table.histogram(), expected)
    assert_totals(table.histogram("last"), {3: [height * width], 200: [height * width]})


@pytest.mark.parametrize(
    ("rule", "encode"),
    [("id // 256", lambda raw, number: raw * 256 + number), ("id % 65536", lambda r, n: r + n * 65536)],
)
def test_objects_have_an_instance_number_above_zero(tmp_path: Path, rule: Any, encode: Any) -> None:
    rng = np.random.default_rng(1)
    raw, number = rng.integers(1, 4, (30, 40)), rng.integers(0, 6, (30, 40))
    np.save(tmp_path / "a.npy", encode(raw, number).astype(np.uint32))
    expected = {c: [int(((raw == c) & (number == n)).sum()) for n in range(1, 6)] for c in range(1, 4)}
    assert_totals(statsvc.scan(tmp_path, rule=rule).histogram(), expected)


def test_a_scan_stores_objects_and_later_scans_carry_them(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_instances(tmp_path / "labels")
    (folder / "train" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    wait_until_stable(folder)
    splits = {"val": Split(folder="val")}
    workspace.add(folder, counting=counting_rule.read("id//1000", None), splits=splits)
    workspace.scan()

    def assert_stored() -> None:
        version, expected = workspace.version(), folder_sizes(folder)
        version.verify()
        assert by_sample(version) == expected
        assert_totals(version.histogram(), joined(expected.values()))
        in_val = [sizes for path, sizes in expected.items() if path.startswith("val/")]
        assert_totals(version.histogram("val"), joined(in_val))
        # Anyone can read the number of objects of each class in each sample with Zarr alone.
        group = zarr.open_group(workspace.files / workspace.record().arrays_uri, mode="r")
        stored: Any = group["objects"]
        assert (stored.dtype, stored.metadata.dimension_names) == (np.int64, ("sample", "class"))
        paths, ids = version.array("path").tolist(), version.array("class_id").tolist()
        assert stored[:].tolist() == [
            [len(expected.get(path, {}).get(raw, [])) for raw in ids] for path in paths
        ]

    assert_stored()
    assert workspace.version().has_objects
    write_png(folder / "train" / "0 first.png", instance_map(50))
    write_png(folder / "val" / "3.png", instance_map(51))
    (folder / "train" / "4.png").unlink()
    wait_until_stable(folder)
    outcome, _ = workspace.scan()
    assert scan_numbers(outcome)["reused"] == 7
    assert_stored()
    # Without the instances of a class, its id is left if it has pixels, and otherwise not.
    for file in folder.glob("**/*.png"):
        if file.name != "broken.png":
            ids = np.asarray(Image.open(file)).copy()
            if (ids // 1000 == 25).any():
                ids[ids // 1000 == 25] = 7
                write_png(file, ids)
    wait_until_stable(folder)
    workspace.scan()
    assert 25 not in workspace.version().array("class_id").tolist()
    assert_stored()


def test_retention_keeps_the_totals_of_objects_and_verify_finds_damage(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = write_instances(tmp_path / "labels")
    wait_until_stable(folder)
    splits = {"val": Split(folder="val")}
    workspace.add(folder, counting=Counting("id // 1000"), splits=splits)
    workspace.scan()
    expected, uri = folder_sizes(folder), workspace.record().arrays_uri
    write_png(folder / "train" / "new.png", instance_map(99))
    wait_until_stable(folder)
    workspace.scan()
    workspace.catalog.set_keep(workspace.catalog.dataset("streets"), 1)
    for _ in range(2):
        retention.collect(workspace.catalog, workspace.store, grace=0)
    left = {array.name for array in (workspace.store / uri).folders() if array.name.startswith("object")}
    assert left == {"object_sizes", "object_smallest", "object_median"}
    expired = workspace.version(number=1)
    expired.verify()
    assert not expired.has_objects
    assert_totals(expired.histogram(), joined(expected.values()))
    in_val = [sizes for path, sizes in expected.items() if path.startswith("val/")]
    assert_totals(expired.histogram("val"), joined(in_val))

    arrays = workspace.files / workspace.record().arrays_uri
    for name in ("objects", "object_entries", "object_class_id", "object_pixels", "object_sizes"):
        array: Any = zarr.open_array(str(arrays / name), mode="r+")
        values = np.asarray(array[...])
        array[...] = values + 1
        with pytest.raises(DamagedVersion, match="object"):
            workspace.version().verify()
        array[...] = values
    workspace.version().verify()


def test_rows_that_an_earlier_release_counted_without_objects_are_counted_again() -> None:
    plain = reader_digest()
    assert reader_digest(Counting(), "*.png") == plain
    assert plain == "3cf7c01f1b83b4cacc4c7fbb2ae80516"
    assert reader_digest(Counting(), "instances_val2017.json") != plain
    assert reader_digest(Counting("id // 1000")) != plain


def test_a_source_without_instances_knows_no_objects(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_instances(tmp_path / "labels", 3)
    assert statsvc.scan(folder).histogram().objects is None
    dataset = workspace.catalog.create_dataset("plain", str(folder), "*.png", Configuration())
    wait_until_stable(folder)
    workspace.scan(dataset.name)
    version = workspace.version(dataset.name)
    assert not version.has_objects
    assert version.histogram().objects is None
    assert "object_sizes" not in workspace.record(dataset.name).digests


def test_an_object_without_pixels_adds_no_id_where_objects_of_other_samples_are_unknown(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "labels"
    write_png(folder / "plain.png", np.full((4, 4), 3, np.uint8))
    outline = {"image_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "area": 16, "iscrowd": 0}
    covered = [{**outline, "id": number, "category_id": number} for number in (1, 2)]
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}
    names = [{"id": number, "name": str(number)} for number in (1, 2)]
    content = {"images": [image], "annotations": covered, "categories": names}
    (folder / "instances.json").write_text(json.dumps(content))
    workspace.catalog.create_dataset("mixed", str(folder), "*.[jp][sn]*", Configuration())
    wait_until_stable(folder)
    workspace.scan("mixed")
    first = workspace.version("mixed").array("class_id").tolist()
    write_png(folder / "plain.png", np.full((4, 4), 4, np.uint8))
    wait_until_stable(folder)
    workspace.scan("mixed")
    assert [raw for raw in first if raw not in (3, 4)] == [
        raw for raw in workspace.version("mixed").array("class_id").tolist() if raw not in (3, 4)
    ]


def test_totals_do_not_depend_on_how_objects_are_added() -> None:
    rng = np.random.default_rng(0)
    column, pixels = rng.integers(0, 5, 3_000_000), 2 ** rng.integers(0, 28, 3_000_000) + rng.integers(0, 9)
    aggregator = ObjectAggregator(6)
    for part in np.array_split(np.arange(len(column)), 40):
        aggregator.add(column[part], pixels[part])
    totals = aggregator.totals()
    for k in range(5):
        sizes = pixels[column == k]
        assert totals.median[k] == np.median(sizes)
        assert totals.smallest[k] == sizes.min()
        assert totals.sizes[k].tolist() == np.histogram(sizes, 2.0 ** np.arange(51))[0].tolist()
    assert totals.count[5] == totals.median[5] == 0
    assert Counter(column.tolist()) == Counter(dict(enumerate(totals.count[:5].tolist())))
