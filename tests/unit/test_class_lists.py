"""Class lists in the forms that datasets and annotation tools write, and the errors for malformed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statsvc.classes import class_lists, palettes
from statsvc.errors import InvalidParameter
from support.command_line import invoke

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("background", "car", "road")

LISTS = {
    "_classes.csv": "Pixel Value, Class\n0, background\n1, car\n2, road\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncar,250,50,83\nroad,50,183,250\n",
    "semicolons.csv": "id;name;remark\n2;road;x\n1;car;\n0;background;\n",
    "headless.csv": "0,background\n1,car\n2,road\n",
    "one_column.csv": "class\nbackground\ncar\nroad\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\n"
    "road:50,183,250::\n",
    "label_colors.txt": "0 0 0 background\n250 50 83\tcar\n50 183 250 road\n",
    "classes.txt": "\ufeffbackground\r\n\r\ncar\r\nroad\r\n",
    "labels.txt": "__ignore__\nbackground\ncar\nroad\n",
    "header.txt": "class_name\nbackground\ncar\nroad\n",
    "numbered.txt": "0: background\n1: car\n2: road\n",
    "objectInfo.txt": "Idx\tRatio\tName\n0\t0.5\tbackground\n1\t0.1\tcar\n2\t0.4\troad\n",
    "data.yaml": "train: ../train\nnc: 3\nnames: ['background', 'car', 'road']\n",
    "dict.yaml": "names:\n  0: background\n  1: car\n  2: road\n",
    "dataset.json": '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "car": 1, "road": 2}}',
    "decathlon.json": '{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "car", "2": "road"}}',
    "id2label.json": '{"0": "background", "1": "car", "2": "road"}',
    "list.json": '["background", "car", "road"]',
    "coco.json": '{"images": [], "categories": [{"id": 0, "name": "background"}, {"id": 1, "name": "car"}, '
    '{"id": 2, "name": "road"}]}',
    "a.tif.aux.xml": "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>background</Category>"
    "<Category>car</Category><Category>road</Category></CategoryNames></PAMRasterBand></PAMDataset>",
}


@pytest.mark.parametrize("file", LISTS)
def test_every_form_gives_the_names_by_id(file: str) -> None:
    assert class_lists.parse(file, LISTS[file].encode()).class_names() == NAMES


@pytest.mark.parametrize("file", ["class_dict.csv", "labelmap.txt", "label_colors.txt"])
def test_a_list_with_colors_is_a_palette(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(LISTS[file])
    palette = palettes.find(str(tmp_path / file), files=True)
    assert palette is not None
    assert palette.colors == ((0, 0, 0, 0), (250, 50, 83, 1), (50, 183, 250, 2))
    assert palette.class_names() == NAMES


def test_ids_that_are_ignored_have_no_name_and_missing_names_are_ids() -> None:
    nnunet = b'{"labels": {"background": 0, "edema": 2, "whole tumor": [1, 2], "ignore": 3}}'
    classes = class_lists.parse("dataset.json", nnunet)
    assert (classes.class_names(), classes.ignored) == (("background", "1", "edema"), (3,))
    assert class_lists.parse("c.csv", b"id,name\n0,a\n255,void\n").class_names() == ("a",)
    table = (
        "<PAMDataset><PAMRasterBand><GDALRasterAttributeTable><FieldDefn><Name>Value</Name><Usage>5</Usage>"
        "</FieldDefn><FieldDefn><Name>Class</Name><Usage>2</Usage></FieldDefn><Row><F>1</F><F>forest</F></Row>"
        "</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
    )
    assert class_lists.parse("a.tif.aux.xml", table.encode()).class_names() == ("0", "forest")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.csv", "a,b\n1,2\n", "line 1: expected a header with a column of names"),
        ("a.csv", "id,name\n0,a\n1\n", "line 3: expected 2 cells"),
        ("a.csv", "id,name\n0,a\n0,b\n", "line 3: the id 0 occurs twice"),
        ("a.csv", "id,name\nx,a\n", "line 2: ids and colors must be integers"),
        ("a.csv", "id,train_id,name\n0,1,a\n", "--class-map"),
        ("class_dict.csv", "name,r,g,b\na,0,0,300\n", "line 2: colors must be from 0 to 255"),
        ("labelmap.txt", "a:0,0,0::\nb 1,2,3\n", "line 2: expected label:red,green,blue"),
        ("labelmap.txt", "a:0,0,0::\nb:0,0,0::\n", "line 2: the color 0,0,0 occurs twice"),
        ("train.txt", "a.png\nb.png\n", "name of a file"),
        ("data.yaml", "names: [a\n", "line 2: invalid YAML"),
        ("data.yaml", "path: x\n", "expected a list of names"),
        ("dataset.json", '{"labels": {"a": 0,}}', "line 1: invalid JSON"),
        ("dataset.json", '{"numTraining": 3}', "expected a list of names"),
        ("a.aux.xml", "<!DOCTYPE x><PAMDataset/>", "entities"),
        ("a.txt", "a\0b", "binary"),
        ("a.txt", "", "lists no classes"),
    ],
)
def test_a_malformed_list_is_rejected_with_its_line(file: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        class_lists.parse(file, text.encode())


def test_a_list_without_colors_is_no_rule_and_a_malformed_list_no_option(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("id,name\n0,a\n")
    with pytest.raises(InvalidParameter, match="without colors"):
        palettes.find(str(tmp_path / "names.csv"), files=True)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    result = invoke("scan", tmp_path, "--class-names", tmp_path / "bad.csv", "--home", tmp_path / "h", code=2)
    assert "line 1: expected a header" in result.stderr
