"""Tar shards, Parquet and COCO JSON against the writers' own libraries, Pillow and `numpy.unique`."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as masks

import statsvc
from statsvc.errors import SourceError
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.sources import open_source
from support import damage
from support.commands import scan_json
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def counts(table: Any) -> dict[int, int]:
    totals = table.totals()
    return {i: n for i, n in zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True) if n}


def counted(arrays: Iterable[NDArray[Any]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for array in arrays:
        ids, pixels = np.unique(array, return_counts=True)
        total.update(dict(zip(ids.tolist(), pixels.tolist(), strict=True)))
    return dict(total)


def maps(number: int, shape: tuple[int, int] = (13, 17)) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(k).integers(0, 6, shape).astype(np.uint8) for k in range(number)]


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def shard(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_the_label_maps_of_tar_shards_are_counted_and_their_images_skipped(tmp_path: Path, form: Any) -> None:
    arrays = maps(9)
    for number in range(3):
        files: dict[str, bytes] = {}
        for k in range(3 * number, 3 * number + 3):
            files |= {f"{k:06}.jpg": jpeg(), f"{k:06}.seg.png": damage.png(arrays[k]), f"{k:06}.json": b"{}"}
        shard(tmp_path / ("val" if number == 2 else "train") / f"{number:04}.tar", files, form)
    table = statsvc.scan(tmp_path)
    assert counts(table) == counted(arrays)
    (block,) = table.blocks()
    assert list(block.path)[:2] == ["train/0000.tar/000000.seg.png", "train/0000.tar/000001.seg.png"]
    assert table.weights(split="val").to_dict()["images"] == 3


def test_a_key_chooses_among_the_kinds_of_file_in_a_shard(tmp_path: Path) -> None:
    labels, depth = maps(4), maps(4, (5, 5))
    files = {
        f"{k}.{part}": damage.png(a[k])
        for k in range(4)
        for part, a in (("seg.png", labels), ("z.png", depth))
    }
    shard(tmp_path / "a.tar", files)
    assert counts(statsvc.scan(tmp_path / "a.tar", key="seg.png")) == counted(labels)
    with pytest.raises(SourceError, match=r"several kinds of file \(seg.png, z.png\); choose one with --key"):
        statsvc.scan(tmp_path / "a.tar")


def test_a_damaged_member_is_one_failed_sample_and_a_damaged_shard_another(tmp_path: Path) -> None:
    arrays = maps(3)
    files = {f"{k}.png": damage.png(array) for k, array in enumerate(arrays)}
    shard(tmp_path / "good.tar", files | {"bad.png": damage.truncated(files["0.png"])})
    whole = shard(tmp_path / "whole.tar", files).read_bytes()
    # Cut at the end of a member's data, where a tar reader sees nothing wrong.
    (tmp_path / "cut.tar").write_bytes(whole[: (512 + 512) * 2])
    (tmp_path / "text.tar").write_text("words " * 200)
    table = statsvc.scan(tmp_path)
    failed = dict(table.failures()[1])
    assert sorted(failed) == ["cut.tar", "good.tar/bad.png", "text.tar"]
    assert "truncated" in failed["cut.tar"]
    assert "not a valid tar file" in failed["text.tar"]
    assert counts(table) == counted([*arrays, *arrays])


def parquet(path: Path, columns: dict[str, list[Any]], **options: Any) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = {
        name: pa.array(values, picture if isinstance(values[0], dict) else None)
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path, **options)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("struct", [True, False])
def test_the_images_of_a_parquet_column_are_counted(tmp_path: Path, compression: Any, struct: Any) -> None:
    arrays = maps(11)

    def cell(data: bytes) -> Any:
        return {"bytes": data, "path": "a.png"} if struct else data

    forms = [damage.png, damage.npy, damage.tiff]
    parquet(
        tmp_path / "train-00000-of-00001.parquet",
        {
            "image": [cell(jpeg())] * 11,
            "annotation": [cell(forms[k % 3](array)) for k, array in enumerate(arrays)],
            "scene": ["street"] * 11,
        },
        compression=compression,
        row_group_size=4,
    )
    table = statsvc.scan(tmp_path)
    assert counts(table) == counted(arrays)
    (block,) = table.blocks()
    assert list(block.path)[10] == "train-00000-of-00001.parquet/10"


def test_a_damaged_parquet_row_is_one_failed_sample_and_a_key_selects_the_column(tmp_path: Path) -> None:
    arrays = maps(3)
    good = [{"bytes": damage.png(array), "path": None} for array in arrays]
    parquet(tmp_path / "a.parquet", {"first": good, "second": [{"bytes": jpeg()}, {"bytes": None}, good[2]]})
    assert counts(statsvc.scan(tmp_path, key="first")) == counted(arrays)
    table = statsvc.scan(tmp_path, key="second")
    failed = dict(table.failures()[1])
    assert "JPEG" in failed["a.parquet/0"]
    assert "no bytes" in failed["a.parquet/1"]
    assert counts(table) == counted(arrays[2:])
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:-20])
    with pytest.raises(SourceError, match="not a valid Parquet file"):
        statsvc.scan(tmp_path / "b.parquet")


def coco(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 200, "name": "rug"}]


def panoptic(folder: Path, number: int = 3) -> dict[int, int]:
    """Write a panoptic dataset; return the pixels of each category by the segments' areas, −1 for void."""
    expected: Counter[int] = Counter()
    annotations = []
    for k in range(number):
        rng = np.random.default_rng(k)
        segments = {
            int(s): int(c)
            for s, c in zip(rng.integers(1, 1 << 24, 5), rng.choice([1, 3, 200], 5), strict=True)
        }
        drawn = rng.choice([0, *segments], (30, 40))
        picture = np.stack([drawn & 255, drawn >> 8 & 255, drawn >> 16], -1).astype(np.uint8)
        (folder / "val").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "val" / f"{k}.png")
        areas = {s: int((drawn == s).sum()) for s in segments}
        for s, c in segments.items():
            expected[c] += areas[s]
        expected[-1] += int((drawn == 0).sum())
        info = [{"id": s, "category_id": c, "area": areas[s], "iscrowd": 0} for s, c in segments.items()]
        annotations.append({"image_id": k, "file_name": f"{k}.png", "segments_info": info})
    coco(folder / "val.json", {"annotations": annotations, "categories": CATEGORIES, "images": []})
    return dict(expected)


def test_the_panoptic_pixels_of_a_category_are_the_sum_of_its_segment_areas(tmp_path: Path) -> None:
    expected = panoptic(tmp_path)
    table = statsvc.scan(tmp_path / "val.json")
    assert counts(table) == expected
    assert table.configuration.num_classes == 201
    assert table.configuration.class_names[3] == "car"


def test_a_changed_sidecar_recounts_all_its_samples_and_a_changed_image_only_one(tmp_path: Path) -> None:
    panoptic(tmp_path / "p")
    wait_until_stable(tmp_path / "p")
    first = scan_json(tmp_path / "p/val.json", "--name", "n")["scan"]
    assert (first["counted"], first["failed"]) == (3, 0)
    assert scan_json("--name", "n")["scan"]["reused"] == 3
    file = tmp_path / "p/val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 200
    file.write_text(json.dumps(content))
    changed = scan_json("--name", "n")
    assert changed["scan"]["counted"] == 3
    table = statsvc.scan(file)
    for row in changed["weights"]["classes"]:
        assert row["pixels"] == counts(table).get(row["id"], 0)


def test_an_image_that_does_not_match_its_json_is_rejected_and_a_missing_image_reported(
    tmp_path: Path,
) -> None:
    panoptic(tmp_path)
    file = tmp_path / "val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"].pop()
    file.write_text(json.dumps(content))
    (tmp_path / "val/1.png").unlink()
    failed = dict(statsvc.scan(file).failures()[1])
    assert "does not list" in failed["val/0.png"]
    assert "missing" in failed["val/1.png"]


ONE = '"categories": [{"id": 1, "name": "a"}]'
STRANGE = f'{{"annotations": [{{"image_id": 1, "category_id": 7, "segmentation": []}}], "images": [], {ONE}}}'


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a COCO JSON"),
        ('{"annotations": [], "categories": []}', "no categories"),
        (
            f'{{"annotations": [{{"file_name": "../../etc/x.png", "segments_info": []}}], {ONE}}}',
            "outside",
        ),
        (
            STRANGE,
            "list of categories lacks",
        ),
    ],
)
def test_json_that_is_not_coco_is_rejected(tmp_path: Path, content: Any, word: Any) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SourceError, match=word):
        statsvc.scan(tmp_path / "a.json")


# pycocotools 2.0.11 has no `copy` in its `__array__` yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_instances_are_drawn_as_pycocotools_draws_them_later_ones_over_earlier(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    height, width = 37, 53
    blob = np.asfortranarray(rng.random((height, width)) < 0.3, dtype=np.uint8)
    coded = masks.encode(blob)
    runs = [
        len(list(part)) for part in np.split(blob.ravel("F"), np.flatnonzero(np.diff(blob.ravel("F"))) + 1)
    ]
    if blob[0, 0]:
        runs.insert(0, 0)
    polygons = [[3.0, 4.0, 30.5, 5.0, 25.0, 30.0], [40.0, 1.0, 52.9, 1.0, 52.9, 20.0, 40.0, 20.0]]
    annotations = [
        {
            "image_id": 7,
            "category_id": 1,
            "segmentation": {"size": [height, width], "counts": coded["counts"].decode()},
        },
        {"image_id": 7, "category_id": 3, "segmentation": [[1, 1, 2, 2], *polygons]},
        {"image_id": 9, "category_id": 200, "segmentation": {"size": [height, width], "counts": runs}},
    ]
    images = [{"id": k, "height": height, "width": width, "file_name": f"{k}.jpg"} for k in (7, 8, 9)]
    file = coco(tmp_path / "a.json", {"images": images, "annotations": annotations, "categories": CATEGORIES})
    first = np.zeros((height, width), int)
    first[blob == 1] = 1
    first[masks.decode(masks.merge(masks.frPyObjects(polygons, height, width))) == 1] = 3
    table = statsvc.scan(file)
    assert counts(table) == counted([first, np.zeros((height, width), int), np.where(blob, 200, 0)])
    (block,) = table.blocks()
    assert list(block.path) == ["a.json/7.jpg", "a.json/8.jpg", "a.json/9.jpg"]


def test_annotations_of_a_wrong_size_fail_one_sample_without_being_drawn(tmp_path: Path) -> None:
    bad = {
        "runs": {"size": [4, 4], "counts": [1 << 40]},
        "size": {"size": [1 << 20, 1 << 20], "counts": "abc"},
        "coded": {"size": [4, 4], "counts": "PPPPPPPPPPPPPPPPPPP0"},
        "polygon": [[1, 2, 3, 4, 5, 6, 7]],
        "far": [[0, 0, 1e18, 0, 0, 1e18]],
    }
    images = [{"id": k, "height": 4, "width": 4, "file_name": name} for k, name in enumerate(bad)]
    images.append({"id": 99, "height": 1 << 20, "width": 1 << 20, "file_name": "huge"})
    annotations = [{"image_id": k, "category_id": 1, "segmentation": s} for k, s in enumerate(bad.values())]
    file = coco(tmp_path / "a.json", {"images": images, "annotations": annotations, "categories": CATEGORIES})
    table = statsvc.scan(file)
    failed = dict(table.failures(limit=10)[1])
    assert sorted(failed) == [f"a.json/{name}" for name in ("coded", "huge", "polygon", "runs", "size")]
    assert "max_pixels" in failed["a.json/huge"]


def test_json_next_to_label_maps_is_a_container_only_if_a_pattern_matches_it(tmp_path: Path) -> None:
    panoptic(tmp_path)
    assert open_source(str(tmp_path / "val"), None).pattern == "*.png"
    (tmp_path / "val/notes.json").write_text("{}")
    assert len(list_samples(open_source(str(tmp_path / "val"), None)).path) == 3


@pytest.mark.skipif(not SHARED.exists(), reason="the real label maps are not available next to the clone")
def test_the_real_panoptic_annotation_has_the_areas_that_its_json_states() -> None:
    file = SHARED / "panoptic/annotations.json"
    areas: Counter[int] = Counter()
    for annotation in json.loads(file.read_text())["annotations"]:
        for info in annotation["segments_info"]:
            areas[info["category_id"]] += info["area"]
    found = counts(statsvc.scan(file))
    assert {i: n for i, n in found.items() if i >= 0} == dict(areas)


def test_a_container_replaced_after_the_listing_is_not_counted(tmp_path: Path) -> None:
    def write(*labels: int) -> None:
        pictures = [damage.png(np.full((4, 4), label, np.uint8)) for label in labels]
        parquet(tmp_path / "a.parquet", {"mask": pictures})

    write(1, 9)
    listing = list_samples(open_source(str(tmp_path), None))
    write(9, 1)
    rows = count_samples(
        CountOptions(str(tmp_path), 10**9, "cpu"), [listing.sample(path) for path in listing.path]
    )
    assert rows.status.tolist() == [1, 1]
    assert all("a.parquet changed after it was listed" in error for error in rows.error)
