"""Counting rules, palettes, divisions of ids, and built-in tables, against NumPy over the whole picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import statsvc as library
from statsvc.classes import palettes, tables
from statsvc.dataset import counting_rule
from statsvc.dataset.configuration import Configuration
from statsvc.errors import InvalidParameter
from statsvc_workers.jobs.reader_digest import reader_digest
from support.commands import scan_json, statsvc

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def counts(table: Any) -> dict[int, int]:
    totals = table.totals()
    return {i: n for i, n in zip(totals.class_id.tolist(), totals.pixels.tolist(), strict=True) if n}


def counted(array: NDArray[Any]) -> dict[int, int]:
    ids, pixels = np.unique(array, return_counts=True)
    return dict(zip(ids.tolist(), pixels.tolist(), strict=True))


def painted(folder: Path, ids: NDArray[Any], palette: palettes.Palette, form: str = "png") -> None:
    """Write a label map in the colours of a palette."""
    lookup = np.zeros((256, 3), np.uint8)
    for red, green, blue, raw in palette.colors:
        lookup[raw] = red, green, blue
    folder.mkdir(exist_ok=True)
    Image.fromarray(lookup[ids]).save(folder / f"a.{form}")


@pytest.mark.parametrize("form", ["png", "bmp", "gif"])
def test_a_color_coded_map_is_counted_by_the_ids_of_its_palette(tmp_path: Path, form: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 32, (40, 50))
    painted(tmp_path / "camvid", ids, palettes.builtin("camvid"), form)
    table = library.scan(tmp_path / "camvid", rule="camvid")
    assert counts(table) == counted(ids)
    assert table.configuration.num_classes == 32
    assert table.configuration.class_names[17] == "Road"


def test_the_32_colors_of_camvid_become_11_classes_by_its_class_map(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 32, (40, 50))
    painted(tmp_path / "camvid", ids, palettes.builtin("camvid"))
    table = library.scan(tmp_path / "camvid", rule="camvid", class_map="camvid")
    answer = table.weights(method="inverse_freq").to_dict()
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign symbol"]
    names += ["fence", "car", "pedestrian", "bicyclist"]
    assert [row["name"] for row in answer["classes"]] == names
    road = np.isin(ids, [tables_id("Road"), tables_id("LaneMkgsDriv"), tables_id("LaneMkgsNonDriv")]).sum()
    assert answer["classes"][3]["pixels"] == road


def tables_id(name: str) -> int:
    return next(raw for raw, text in tables.load("camvid").names.items() if text == name)


def test_a_custom_palette_maps_several_colors_to_one_id_and_reports_unknown_colors(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("r,g,b,id,name\n0,0,0,0,ground\n255,0,0,1,thing\n200,0,0,1,thing\n")
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[0, :3] = 255, 0, 0
    pixels[1, :2] = 200, 0, 0
    pixels[2, 5] = 1, 2, 3
    (tmp_path / "labels").mkdir()
    Image.fromarray(pixels).save(tmp_path / "labels/odd.png")
    table = library.scan(tmp_path / "labels", rule=file)
    answer = table.weights().to_dict()
    assert [(row["name"], row["pixels"]) for row in answer["classes"]] == [("ground", 26), ("thing", 5)]
    (unexpected,) = answer["unexpected"]
    assert unexpected["pixels"] == 1
    assert palettes.unknown_color(unexpected["id"]) == "#010203"
    assert any(
        "color #010203" in str(warning) and "odd.png" in str(warning) for warning in answer["warnings"]
    )


def test_blurred_edges_and_photographs_are_reported_and_the_rest_is_counted(tmp_path: Path) -> None:
    ids = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 32, (8, 8)), 9, 0), 9, 1)
    painted(tmp_path / "a", ids, palettes.builtin("camvid"))
    Image.open(tmp_path / "a/a.png").resize((200, 200), Image.Resampling.BILINEAR).save(
        tmp_path / "a/soft.png"
    )
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a/photograph.png")
    table = library.scan(tmp_path / "a", rule="camvid")
    failed = dict(table.failures()[1])
    assert sorted(failed) == ["photograph.png", "soft.png"]
    assert all("interpolation" in reason for reason in failed.values())
    assert counts(table) == counted(ids)


@pytest.mark.parametrize("rule", ["id // 1000", "id//256", "id % 65536"])
def test_instance_ids_become_class_ids(tmp_path: Path, rule: Any) -> None:
    values = np.random.default_rng(0).integers(0, 34, (20, 30)).astype(np.int32)
    values[::2] = values[::2] * 1000 + np.arange(30)
    np.save(tmp_path / "a.npy", values)
    expected = {
        "id // 1000": np.where(values < 1000, values, values // 1000),
        "id//256": values >> 8,
        "id % 65536": values & 0xFFFF,
    }[rule]
    assert counts(library.scan(tmp_path, rule=rule)) == counted(expected)


def test_rows_are_never_shared_between_two_rules(tmp_path: Path) -> None:
    digests = {
        reader_digest(counting_rule.read(rule, key, files=True))
        for rule, key in [(None, None), ("id // 1000", None), ("camvid", None), ("voc", None), (None, "mask")]
    }
    assert len(digests) == 5
    assert reader_digest() == reader_digest(counting_rule.read("value", None))


def test_counting_reads_back_from_a_configuration_and_leaves_no_trace_by_default() -> None:
    assert "counting" not in Configuration().to_dict()
    for given in (counting_rule.read("id // 256", "mask"), counting_rule.read("camvid", None)):
        configuration = Configuration(counting=given)
        assert Configuration.from_dict(json.loads(json.dumps(configuration.to_dict()))) == configuration


def test_the_error_for_an_unknown_rule_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"did you mean 'camvid'\?.*id // 1000.*cityscapes"):
        counting_rule.read("camvi", None)
    for text, word in {
        "r,g,b\n1,2,3\n": "r,g,b,id",
        "r,g,b,id\n1,2,300,0\n": "line 2: r, g and b must be from 0 to 255",
        "r,g,b,id\n1,2,3,0\n1,2,3,1\n": "occurs twice",
        "r,g,b,id\n1,2,3,x\n": "must be integers",
        "r,g,b,id\n": "the palette is empty",
    }.items():
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(InvalidParameter, match=word):
            counting_rule.read(str(tmp_path / "p.csv"), None)


def test_a_dataset_keeps_its_rule_and_another_rule_wants_another_name(tmp_path: Path) -> None:
    values = np.array([[7, 26001, 26002, 33000]], np.uint16)
    (tmp_path / "a").mkdir()
    Image.fromarray(values).save(tmp_path / "a/x.png")
    first = scan_json(tmp_path / "a", "--rule", "id // 1000", "--class-map", "cityscapes", "--name", "n")
    assert {row["id"]: row["pixels"] for row in first["weights"]["classes"] if row["pixels"]} == {
        0: 1,
        13: 2,
        18: 1,
    }
    again = scan_json("--name", "n")
    assert again["weights"]["pixels"] == 4
    other = statsvc("scan", tmp_path / "a", "--name", "n", "--rule", "id // 256", code=1)
    assert "counted with id // 1000, not id // 256" in other.stderr


@pytest.mark.parametrize("name", tables.NAMES)
def test_every_table_names_its_source_and_numbers_its_classes_without_a_gap(name: str) -> None:
    table = tables.load(name)
    assert len(table.source) > 20
    targets = {target for target in table.targets.values() if target != 255}
    assert targets == set(range(len(table.classes)))
    assert all(table.classes)
    expected = {"ade20k": 150, "voc": 21, "pascal_context": 60, "pascal_context_59": 59, "camvid": 11}
    expected |= {
        "mapillary_vistas": 65,
        "mapillary_vistas_v2": 123,
        "coco_stuff": 171,
        "coco_panoptic": 133,
        "cityscapes": 19,
        "kitti": 19,
    }
    expected |= {"bdd100k": 19, "bdd100k_panoptic": 19, "semantickitti": 20, "isaid": 16, "isprs": 6}
    assert len(table.classes) == expected[name]


def test_the_voc_palette_equals_its_bitwise_color_map() -> None:
    def colour(index: int) -> tuple[int, int, int]:
        parts = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                parts[channel] |= (index >> channel & 1) << (7 - bit)
            index >>= 3
        return parts[0], parts[1], parts[2]

    table = tables.load("voc")
    assert table.colors == {raw: colour(raw) for raw in table.names}


@pytest.mark.skipif(not SHARED.exists(), reason="the real label maps are not available next to the clone")
def test_voc_as_indices_colors_and_arrays_has_the_same_counts() -> None:
    voc = SHARED / "voc"
    by_index = counts(library.scan(voc, pattern="*.png"))
    by_colour = counts(library.scan(voc, pattern="*.png", rule="voc"))
    array = counts(library.scan(voc, pattern="*.npy"))
    assert by_index == by_colour
    assert {i: n for i, n in by_index.items() if i != 255} == {i: n for i, n in array.items() if i != -1}
    assert by_index[255] == array[-1]
