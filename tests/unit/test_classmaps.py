"""Class maps: the built-in ones, and custom ones in files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.classes import class_map_files, class_maps
from statsvc.classes.class_maps import ClassMap
from statsvc.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from pathlib import Path


def applied(class_map: ClassMap, ids: list[int]) -> dict[int, int | None]:
    mapped, known = class_map.apply(np.array(ids, np.int64))
    assert mapped.dtype == np.int64
    assert known.dtype == bool
    return {raw: int(to) if ok else None for raw, to, ok in zip(ids, mapped, known, strict=True)}


def test_cityscapes_has_19_classes_and_ignores_other_listed_ids() -> None:
    mapped = applied(class_maps.builtin("cityscapes"), list(range(-1, 36)))
    order = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert {raw: to for raw, to in mapped.items() if to not in (255, None)} == {
        r: t for t, r in enumerate(order)
    }
    assert [raw for raw, to in mapped.items() if to is None] == [34, 35]
    assert class_maps.builtin("cityscapes").num_classes == 19
    assert class_maps.builtin("cityscapes").names[6] == "traffic light"
    assert class_maps.builtin("cityscapes").colors[13] == (0, 0, 142)
    assert "labels.py" in class_maps.builtin("cityscapes").source


def test_reduce_zero_label_equals_mmsegmentation_on_8_bit_label_maps() -> None:
    label = np.arange(256, dtype=np.uint8)
    expected = label.copy()
    expected[expected == 0] = 255
    expected = expected - 1
    expected[expected == 254] = 255
    mapped, known = class_maps.builtin("reduce_zero_label").apply(label.astype(np.int64))
    assert known.all()
    np.testing.assert_array_equal(mapped, expected)
    assert class_maps.builtin("reduce_zero_label").num_classes is None


def test_reduce_zero_label_keeps_negative_ids_and_does_not_map_256_to_255() -> None:
    assert applied(class_maps.builtin("reduce_zero_label"), [-1, 256]) == {-1: -1, 256: None}


def test_binary_maps_255_to_class_1() -> None:
    assert applied(class_maps.builtin("binary"), [0, 1, 2, 255]) == {0: 0, 1: 1, 2: None, 255: 1}
    assert class_maps.builtin("binary").num_classes == 2


@pytest.mark.parametrize("name", class_maps.BUILTIN)
def test_a_class_map_survives_a_round_trip_through_json(name: str) -> None:
    class_map = class_maps.builtin(name)
    assert ClassMap.from_dict(json.loads(json.dumps(class_map.to_dict()))) == class_map


def test_an_unknown_name_lists_the_built_in_maps() -> None:
    with pytest.raises(
        NotFound, match=r"did you mean 'cityscapes'.*binary, .*, cityscapes, .*reduce_zero_label"
    ):
        class_maps.builtin("cityscape")
    with pytest.raises(NotFound, match="there is no such file"):
        class_map_files.resolve("no/such.yaml")
    assert class_map_files.resolve("binary") is class_maps.builtin("binary")


EXPECTED = ((-1, 255), (7, 0), (8, 1), (9, 255))

FORMS = {
    "short.yaml": "7: 0\n8: 1\n9: ignore\n-1: 255\n",
    "flow.yml": "{7: 0, 8: 1, 9: ignore, -1: 255}",
    "quoted.yaml": "'7': '0'\n8: 1\n9: ignore\n-1: 255\n",
    "short.json": '{"7": 0, "8": 1, "9": "ignore", "-1": 255}',
    "tabs.json": '{\n\t"7": 0, "8": 1,\n\t"9": "ignore", "-1": 255}',
    "bom.csv": "\ufeffid,train_id\n7,0\n8,1\n9,ignore\n\n-1,255\n",
    "spaced.csv": "id, train_id\r\n7, 0\r\n8, 1\r\n9, ignore\r\n-1, 255\r\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_file_format_gives_the_same_class_map(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMS[name], encoding="utf-8")
    class_map = class_map_files.resolve(str(path))
    assert class_map.targets == EXPECTED
    assert class_map.num_classes == 2
    assert class_map.name == path.stem
    assert applied(class_map, [7, 10]) == {7: 0, 10: None}


NAMED = {
    "list.yaml": "map: {7: 0, 8: 1, 9: ignore}\nnames: [road, 'no']\nsource: a paper\n",
    "mapping.yaml": "map: {7: 0, 8: 1, 9: 255}\nnames: {0: road, 1: no, 255: void}\nsource: a paper\n",
    "list.json": '{"map": {"7": 0, "8": 1, "9": "ignore"}, "names": ["road", "no"], "source": "a paper"}',
    "mapping.json": '{"source":"a paper","names": {"1": "no", "0": "road"}, "map": {"9":255,"8":1,"7":0}}',
}


@pytest.mark.parametrize("name", NAMED)
def test_names_and_source_are_read_from_yaml_and_json(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(NAMED[name])
    class_map = class_map_files.load(path)
    assert class_map.targets == ((7, 0), (8, 1), (9, 255))
    assert class_map.names == ("road", "no")
    assert class_map.source == "a paper"


def test_the_first_csv_name_of_a_class_id_wins(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("id,train_id,name\n10,0,car\n252,0,moving-car\n0,255,void\n40,2,road\n30,1,\n")
    assert class_map_files.load(path).names == ("car", "1", "road")


BAD = {
    ("empty.yaml", ""): "the file is empty",
    ("list.yaml", "[1, 2]"): "expected a mapping",
    ("text.yaml", "hello"): "expected a mapping",
    ("nothing.yaml", "{}"): "the class map is empty",
    ("twice.yaml", "7: 0\n8: 1\n7: 2\n"): "line 3: raw id 7 occurs twice",
    ("twice.json", '{"7": 0, "7": 1}'): "key '7': raw id 7 occurs twice",
    ("twice.csv", "id,train_id\n7,0\n7,0\n"): "line 3: raw id 7 occurs twice",
    ("bool.yaml", "7: 0\nyes: 1\n"): "line 2: expected a raw id, an integer such as 7, got 'yes'",
    ("bool.json", '{"7": true}'): "key '7': expected a class id or the word ignore.*got True",
    ("octal.yaml", "010: 0\n"): "line 1: expected a raw id.*'010'",
    ("sexagesimal.yaml", "1:30: 0\n"): "line 1: expected a raw id.*'1:30'",
    ("float.yaml", "7: 0.5\n"): "line 1: expected a class id.*'0.5'",
    ("float.json", '{"7": 1.0}'): "expected a class id.*got 1.0",
    ("null.yaml", "7:\n"): "line 1: expected a class id.*''",
    ("nested.yaml", "7: {8: 1}\n"): "line 1: expected a class id.*a mapping or list",
    ("deep.yaml", "a: [[[[1]]]]"): "too many nested levels",
    ("loop.yaml", "&a [*a]"): "line 1: write the value again instead of an alias",
    ("tag.yaml", "7: 0\n  8: 1\n"): "line 2: invalid YAML",
    ("two.yaml", "7: 0\n---\n8: 1\n"): "invalid YAML",
    ("broken.json", '{"7": 0,\n}'): "line 2: invalid JSON",
    ("huge.yaml", "7: 65536\n"): "raw id 7 is mapped to 65536, but class ids range from .* to 65535",
    ("big.yaml", "9223372036854775808: 0\n"): "does not fit in 64 bits",
    ("ignored.yaml", "7: ignore\n8: -1\n"): "every raw id is ignored",
    ("unknown.yaml", "map: {7: 0}\nname: [a]\n"): "line 2: unknown key 'name' .did you mean 'names'",
    ("mapless.yaml", "map: 7\n"): "line 1: map must contain raw id",
    ("names.yaml", "map: {7: 0}\nnames: [a, b]\n"): "2 names for 1 class id ",
    (
        "names2.yaml",
        "map: {7: 0}\nnames: {3: a}\n",
    ): "line 2: class id 3 has a name, but no raw id is mapped to it",
    ("names3.json", '{"map": {"7": 0}, "names": [3]}'): "names, entry 0: expected a name, got 3",
    ("names4.yaml", "map: {7: 0}\nnames: road\n"): "names must be a list of strings",
    ("header.csv", "raw,train\n7,0\n"): "line 1: expected the header id,train_id",
    ("cells.csv", "id,train_id\n7,0,road\n"): "line 2: expected 2 cells .id,train_id., got 3",
    ("semicolon.csv", "id;train_id\n7;0\n"): "line 1: expected the header",
    ("word.csv", "id,train_id\nroad,0\n"): "line 2: expected a raw id.*'road'",
    ("quote.csv", 'id,train_id\n"7,0\n'): "invalid CSV",
    ("map.txt", "7: 0"): r"the suffix of a class map file must be one of .yaml, .yml, .json, .csv",
}


@pytest.mark.parametrize(("file", "message"), BAD.items(), ids=[name for name, _ in BAD])
def test_an_error_in_a_file_names_the_file_and_the_position(
    tmp_path: Path, file: tuple[str, str], message: str
) -> None:
    path = tmp_path / file[0]
    path.write_text(file[1])
    with pytest.raises(InvalidParameter, match=message) as caught:
        class_map_files.load(path)
    assert caught.value.errors[0][0] == "class_map"
    assert str(path) in str(caught.value)


def test_an_error_for_binary_content_or_a_folder_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_bytes(b"7: 0 # caf\xe9\n")
    with pytest.raises(InvalidParameter, match="byte 10 is not UTF-8"):
        class_map_files.load(path)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InvalidParameter, match=r"folder\.yaml: cannot be read"):
        class_map_files.load(tmp_path / "folder.yaml")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected an object"),
        ({"targets": [[7, 0, 1]]}, r"expected \[integer, integer\], got \[7, 0, 1\]"),
        ({"targets": [[True, 0]]}, "got"),
        ({"targets": "7:0"}, "targets must be a list"),
        ({"targets": [[7, 0], [7, 1]]}, "raw id 7 occurs twice"),
        ({"targets": [[7, 0]], "names": [1]}, "names must be a list of strings"),
        ({"targets": [[7, 0]], "name": 3}, "name and source must be strings"),
        ({"targets": [[7, 0]], "otherwise": "drop"}, "otherwise must be"),
        ({"targets": [[7, 0]], "color": []}, "unknown key 'color' .did you mean 'colors'"),
    ],
)
def test_a_malformed_json_form_is_rejected(value: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        ClassMap.from_dict(value)
