"""labelme JSON files: counts of labelme's own `shapes_to_label`, and files that have to be corrected."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import statsvc as library
from statsvc.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

PNG = io.BytesIO()
Image.fromarray(np.eye(4, dtype=bool)).save(PNG, "PNG")

SHAPES: list[dict[str, Any]] = [
    {
        "label": "road",
        "shape_type": "polygon",
        "points": [[2.4, 3.1], [40.7, 5.2], [33.3, 28.8], [8.5, 21.6]],
    },
    {"label": "car", "shape_type": "rectangle", "points": [[30.2, 20.1], [20.6, 10.3]]},
    {"label": "car", "shape_type": "circle", "points": [[45.5, 25.5], [49.5, 27.0]]},
    {"label": "pole", "shape_type": "line", "points": [[5, 1], [25, 35]]},
    {"label": "pole", "shape_type": "linestrip", "points": [[50, 2], [55, 10], [52, 30]]},
    {"label": "pole", "shape_type": "point", "points": [[12, 33]]},
    {"label": "car", "shape_type": "oriented_rectangle", "points": [[40, 2], [46, 5], [44, 9], [38, 6]]},
    {"label": "__ignore__", "points": [[0, 36], [59, 36], [59, 39], [0, 39]]},
    {"label": "road", "shape_type": "polygon", "points": [[-30, 30], [4, 31], [3, 90]]},
    {
        "label": "car",
        "shape_type": "mask",
        "points": [[56, 20], [59, 23]],
        "mask": base64.b64encode(PNG.getvalue()).decode(),
    },
]

LABELME = {-1: 220, 0: 874, 1: 373, 2: 210, 3: 723}
"""Id → pixels of SHAPES in an image of 60 x 40, by `shapes_to_label` of labelme 6.3.1."""

LABELS = "__ignore__\n_background_\nroad\ncar\npole\n"


def write(path: Path, shapes: list[dict[str, Any]], height: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "version": "6.3.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": "a.jpg",
        "imageData": None,
    }
    path.write_text(json.dumps(content | {"imageHeight": height, "imageWidth": 60}))


def counted(folder: Path) -> dict[int, int]:
    totals = library.scan(folder, pattern="**/*.json").totals()
    return {i: n for i, n in zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True) if n}


def test_shapes_are_drawn_as_labelme_draws_them(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    write(tmp_path / "train/a.json", SHAPES)
    table = library.scan(tmp_path, pattern="**/*.json")
    totals = table.totals()
    assert dict(zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True)) == LABELME
    assert table.configuration.class_names == ("_background_", "road", "car", "pole")
    assert list(table.rows.path) == ["train/a.json"]
    assert set(table.configuration.splits) == {"train"}


def test_a_folder_of_labelme_files_is_recognized_and_needs_the_ids_of_its_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.json", SHAPES[:3])
    with pytest.raises(SourceError, match=r"labelme files: statsvc scan \S+ --pattern"):
        library.scan(tmp_path)
    with pytest.raises(
        SourceError, match=r"write the file labels\.txt .*: __ignore__, _background_, car, road,"
    ):
        counted(tmp_path)
    (tmp_path / "labels.txt").write_text("road\ncar\n")
    with pytest.raises(SourceError, match=r"does not begin with the lines __ignore__ and _background_"):
        counted(tmp_path)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nroad\n")
    with pytest.raises(SourceError, match=r"has labels that labels\.txt lacks: car"):
        counted(tmp_path)


def test_another_order_of_the_labels_changes_the_ids_of_the_next_scan(tmp_path: Path) -> None:
    write(tmp_path / "a/a.json", SHAPES[1:2])
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncar\nroad\n")
    first = counted(tmp_path)
    assert first == {0: 2400 - first[1], 1: first[1]}
    (tmp_path / "b").mkdir()
    write(tmp_path / "b/b.json", SHAPES[1:2])
    (tmp_path / "b/labels.txt").write_text("__ignore__\n_background_\nroad\ncar\n")
    table = library.scan(tmp_path, pattern="**/*.json")
    assert table.rows.status.tolist() == [0, 1]
    assert "another list of labels" in table.rows.error[1]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"points": [[1, 1], [5, 5]]}, "a polygon cannot have the points"),
        ({"points": [[1, 1], [5, 5], [float("nan"), 2]]}, "not finite"),
        ({"points": "x"}, "values are damaged"),
        ({"shape_type": "cuboid", "points": [[1, 1]]}, "'cuboid' is unknown"),
        ({"shape_type": "mask", "points": [[50, 30], [70, 35]], "mask": ""}, "not inside the image"),
        ({"shape_type": "mask", "points": [[5, 5], [8, 8]], "mask": "AAAA"}, "cannot be decoded"),
        ({"shape_type": "mask", "points": [[5, 5], [9, 8]], "mask": SHAPES[-1]["mask"]}, "its mask has"),
    ],
)
def test_a_damaged_shape_is_named(tmp_path: Path, shape: dict[str, Any], reason: str) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    write(tmp_path / "a.json", [SHAPES[0], {"label": "car", **shape}])
    with pytest.raises(SourceError, match=rf"invalid shape, number 1: .*{reason}"):
        counted(tmp_path)


def test_a_file_without_the_size_of_its_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    write(tmp_path / "a.json", SHAPES)
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(content | {"imageHeight": None}))
    with pytest.raises(SourceError, match="without the size of its image"):
        counted(tmp_path)


def test_points_far_outside_and_large_sizes_cost_no_time(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    circle = {"label": "car", "shape_type": "circle", "points": [[30, 20], [1e12, 20]]}
    write(tmp_path / "a.json", [circle])
    assert counted(tmp_path) == {2: 2400}
    write(tmp_path / "a.json", [circle], height=10**9)
    with pytest.raises(SourceError, match="max_pixels"):
        counted(tmp_path)
