"""Class lists next to label maps: their names, colors and ignored ids, with counts checked against NumPy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import statsvc as library
from support.commands import statsvc

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from support.scans import Workspace

COLORS = np.array([[0, 0, 0], [250, 50, 83], [50, 183, 250]], np.uint8)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\nroad:50,183,250::\n"
NAMES = ("background", "car", "road")


@pytest.fixture
def ids() -> NDArray[np.uint8]:
    return np.random.default_rng(3).choice(3, (30, 40), p=[0.7, 0.2, 0.1]).astype(np.uint8)


def counted(table: Any) -> dict[int, int]:
    totals = table.totals()
    return {i: n for i, n in zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True) if n}


def expected(array: NDArray[Any]) -> dict[int, int]:
    values, pixels = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def save(file: Path, pixels: NDArray[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.mark.parametrize("place", ["masks", "", ".."])
def test_names_are_read_next_to_the_label_maps_above_them_and_above_the_source(
    tmp_path: Path, ids: NDArray[np.uint8], place: str
) -> None:
    save(tmp_path / "data/masks/a.png", ids)
    (tmp_path / "data" / place / "_classes.csv").write_text(
        "Pixel Value, Class\n0,background\n1,car\n2,road\n"
    )
    table = library.scan(tmp_path / "data")
    assert table.configuration.class_names == NAMES
    assert "_classes.csv" in table.configuration.notes["class_names"]


def test_names_that_would_be_shifted_are_not_used(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    save(tmp_path / "a.png", ids)
    (tmp_path / "data.yaml").write_text("names: {0: car, 1: road}\n")
    configuration = library.scan(tmp_path).configuration
    assert (configuration.class_names, configuration.num_classes) == ((), 3)
    assert "lists 2 classes, but the id 2 occurs" in configuration.notes["data.yaml"]


def test_explicit_ids_beyond_the_list_stay_classes(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    save(tmp_path / "a.png", ids)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "car": 1}}')
    configuration = library.scan(tmp_path).configuration
    assert (configuration.class_names, configuration.num_classes) == (("background", "car"), 3)


def test_lists_that_contradict_each_other_or_are_malformed_are_reported(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    for split, names in {"train": "a\nb\nc\n", "val": "a\nc\nb\n"}.items():
        save(tmp_path / split / "x.png", ids)
        (tmp_path / split / "classes.txt").write_text(names)
    configuration = library.scan(tmp_path).configuration
    assert configuration.class_names == ()
    assert "val/classes.txt lists other classes" in configuration.notes["train/classes.txt"]
    (tmp_path / "train/classes.txt").write_text("a.png\n")
    assert "line 1" in library.scan(tmp_path, pattern="train/*").configuration.notes["train/classes.txt"]


def test_colors_of_a_labelmap_become_the_rule(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    save(tmp_path / "SegmentationClass/empty.png", COLORS[np.zeros_like(ids)])
    save(tmp_path / "SegmentationClass/full.png", COLORS[ids])
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    for source in (tmp_path, tmp_path / "SegmentationClass"):
        table = library.scan(source)
        assert counted(table) == expected(np.stack([ids, np.zeros_like(ids)]))
        assert table.configuration.class_names == NAMES
        assert "labelmap.txt" in table.configuration.notes["rule"]


def test_palette_indices_count_where_the_palette_agrees_and_colors_where_it_renumbers(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    for name, order in {"same": [0, 1, 2], "renumbered": [2, 0, 1]}.items():
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[ids])
        image.putpalette(COLORS[order].tobytes())
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
        (tmp_path / name / "labelmap.txt").write_text(LABELMAP)
        table = library.scan(tmp_path / name)
        assert counted(table) == expected(ids), name
        assert ("rule" in table.configuration.notes) == (name == "renumbered")
        assert table.configuration.class_names == NAMES


def test_a_labelmap_with_other_colors_is_no_rule(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    save(tmp_path / "a.png", ids)
    save(tmp_path / "b.png", COLORS[ids] + np.uint8(1))
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    table = library.scan(tmp_path)
    assert "contains the color #010101, which it does not list" in table.configuration.notes["labelmap.txt"]


@pytest.mark.parametrize(("value", "dtype"), [(15, "u1"), (65535, "u2"), (2147483647, "i4"), (-9999, "i2")])
def test_nodata_of_geotiff_is_ignored_and_reported(
    tmp_path: Path, ids: NDArray[np.uint8], value: int, dtype: str
) -> None:
    pixels = ids.astype(dtype)
    pixels[:5] = value
    tag = (42113, "s", 0, str(value), True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=[tag])
    table = library.scan(tmp_path)
    assert counted(table) == expected(pixels)
    assert table.configuration.num_classes == 3
    assert str(value) in table.configuration.notes["ignore_index"]
    assert set(table.configuration.ignore_index or ()) == {value, 255}
    assert [row["pixels"] for row in table.weights().to_dict()["classes"]] == [
        expected(ids[5:])[k] for k in range(3)
    ]
    if value == 15:
        assert library.scan(tmp_path, ignore_index=[1]).configuration.ignore_index == (1,)


def test_nodata_0_of_a_mask_stays_its_background_and_is_reported(
    tmp_path: Path, ids: NDArray[np.uint8]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ids % 2, extratags=[(42113, "s", 0, "0", True)])
    configuration = library.scan(tmp_path).configuration
    assert (configuration.num_classes, configuration.ignore_index) == (2, None)
    assert "0 is the nodata value" in configuration.notes["nodata"]


def test_category_names_of_gdal_are_read(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ids)
    categories = "".join(f"<Category>{name}</Category>" for name in NAMES)
    (tmp_path / "a.tif.aux.xml").write_text(
        f"<PAMDataset><CategoryNames>{categories}</CategoryNames></PAMDataset>"
    )
    assert library.scan(tmp_path).configuration.class_names == NAMES


def test_a_job_stores_what_it_read_and_does_not_search_outside_the_source(
    workspace: Workspace,
    tmp_path: Path,
    ids: NDArray[np.uint8],
) -> None:
    save(tmp_path / "streets/masks/a.png", COLORS[ids])
    (tmp_path / "streets/labelmap.txt").write_text(LABELMAP)
    workspace.add(tmp_path / "streets/masks", "inner")
    assert workspace.scan("inner")[0].error is not None
    workspace.add(tmp_path / "streets")
    assert workspace.scan()[0].error is None
    configuration = workspace.record().configuration
    assert (configuration.class_names, configuration.num_classes) == (NAMES, 3)
    assert "labelmap.txt" in configuration.notes["rule"]
    assert counted(workspace.version()) == expected(ids)


def test_the_command_prints_what_it_read(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    save(tmp_path / "s/masks/a.png", COLORS[ids])
    (tmp_path / "s/labelmap.txt").write_text(LABELMAP)
    done = statsvc("scan", tmp_path / "s/masks", "--name", "x", "--home", tmp_path / "h", "--json")
    assert "statsvc: rule: 3 colors were read from ../labelmap.txt" in done.stderr
    rows = json.loads(done.stdout)["weights"]["classes"]
    assert {row["name"]: row["pixels"] for row in rows} == {NAMES[k]: n for k, n in expected(ids).items()}
