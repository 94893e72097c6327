"""PGM, TGA, MATLAB 7.3 and SemanticKITTI files, and the advice for formats that are not read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from PIL import Image

import statsvc as library
from statsvc.errors import SourceError
from support.command_line import invoke

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def ids() -> NDArray[np.uint8]:
    return np.random.default_rng(9).integers(0, 5, (20, 30)).astype(np.uint8)


def counted(table: Any) -> dict[int, int]:
    totals = table.totals()
    return {i: n for i, n in zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True) if n}


def expected(array: NDArray[Any]) -> dict[int, int]:
    values, pixels = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


@pytest.mark.parametrize(("suffix", "dtype"), [("pgm", np.uint8), ("pgm", np.uint16), ("tga", np.uint8)])
def test_pgm_and_tga_give_their_values(
    tmp_path: Path, ids: NDArray[np.uint8], suffix: str, dtype: Any
) -> None:
    pixels = ids.astype(dtype) * (100 if dtype is np.uint16 else 1)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    assert counted(library.scan(tmp_path)) == expected(pixels)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[:200])
    with pytest.raises(SourceError, match="truncated"):
        library.scan(tmp_path)


def test_a_pgm_with_another_maximum_is_rejected(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 # five classes\n30 20\n4\n" + ids.tobytes())
    with pytest.raises(SourceError, match="maximum 4"):
        library.scan(tmp_path)


def test_variables_of_matlab_73_are_read(tmp_path: Path, ids: NDArray[np.uint8]) -> None:
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["labels"] = ids.T
    with (tmp_path / "a.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    assert counted(library.scan(tmp_path)) == expected(ids)


def test_points_of_semantickitti_are_one_row_of_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 10, 40, 252], 1000).astype(np.uint32)
    (tmp_path / "000000.label").write_bytes(
        (rng.integers(0, 500, 1000).astype(np.uint32) << 16 | classes).tobytes()
    )
    table = library.scan(tmp_path, class_map="semantickitti")
    assert counted(table) == expected(classes)
    (tmp_path / "000000.label").write_bytes(bytes(7))
    with pytest.raises(SourceError, match="not a multiple of 4"):
        library.scan(tmp_path)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("ct.nhdr", "SimpleITK"),
        ("it's.gipl", "SimpleITK"),
        ("b.vrt", "gdal_translate b.vrt b.tif"),
        ("d.jpg", "JPEG is lossy"),
        ("e.xyz", "convert it to PNG, TIFF, NPY or NIfTI"),
    ],
)
def test_another_format_is_rejected_with_the_command_that_converts_it(
    tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    for pattern in ("*", None):
        with pytest.raises(SourceError, match=r"\.nii\.gz, .*\.png"):
            library.scan(tmp_path, pattern=pattern)
    with pytest.raises(SourceError) as failure:
        library.scan(tmp_path, pattern="*")
    assert command in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_folder_of_coco_files_names_the_layout_of_each_kind(tmp_path: Path) -> None:
    for split in ("train", "val"):
        content = {
            "images": [{"id": 1, "file_name": f"{split}.jpg", "height": 4, "width": 5}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]], "id": 1}
            ],
            "categories": [{"id": 1, "name": "car"}],
        }
        for kind in ("instances", "captions"):
            (tmp_path / f"{kind}_{split}2017.json").write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"statsvc scan \S+ --layout coco-instances$"):
        library.scan(tmp_path)
    table = library.scan(tmp_path, layout="coco-instances")
    assert list(table.rows.path) == [f"instances_{k}2017.json/{k}.jpg" for k in ("train", "val")]
    assert set(table.configuration.splits) == {"train", "val"}
    assert table.configuration.class_names == ("0", "car")


def test_coco_annotations_are_named_and_boxes_left_out(tmp_path: Path) -> None:
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10], "segmentation": square},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [2, 2, 25, 15]},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [2, 2, 25, 15], "segmentation": []},
        ],
    }
    file = tmp_path / "train/_annotations.coco.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    with pytest.raises(
        SourceError, match=r"train/_annotations\.coco\.json contains COCO annotations: statsvc scan"
    ):
        library.scan(tmp_path)
    table = library.scan(file)
    assert counted(table) == {0: 500, 1: 100}
    assert "2 of 3 objects are boxes" in table.configuration.notes["_annotations.coco.json"]


def test_a_scan_prints_a_reason_once_and_few_rows_and_exits_with_1_without_pixels(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for k in range(6):  # five of them are empty files
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks / f"{k}.png")
        if k:
            (masks / f"{k}.png").write_bytes(b"")
    result = invoke("scan", masks, "--home", tmp_path / "h", code=1)
    assert result.stderr.count("is empty (0 bytes)") == 1
    assert "1.png, 2.png, 3.png, 4.png, 5.png: is not a valid PNG" in result.stderr

    ids = tmp_path / "ids"
    ids.mkdir()
    Image.fromarray(np.array([[0, 50000]], np.uint16)).save(ids / "a.png")
    result = invoke("scan", ids, "--home", tmp_path / "h")
    assert "49,999 of 50,001 classes are absent" in result.stdout
    assert len(result.stdout.splitlines()) < 20

    void = tmp_path / "void"
    void.mkdir()
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(void / "a.png")
    result = invoke("scan", void, "--home", tmp_path / "h", code=1)
    assert "no pixel is counted" in result.stderr
