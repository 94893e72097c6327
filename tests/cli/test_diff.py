"""`statsvc diff`: differences between versions, splits and datasets, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.client.client import Client
from statsvc.dataset.groups import Grouping
from statsvc.dataset.splits import detect
from statsvc.weighting.difference import difference, exceeding
from support.command_line import invoke
from support.commands import serve
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from statsvc.store.home import Home


@pytest.fixture
def drifted(home: Home) -> Home:
    """A dataset whose second version has one more image, full of class 3."""
    maps = label_maps(images=12)
    splits = detect(maps)
    publish(home, "street", maps, num_classes=4, splits=splits)
    publish(
        home, "street", maps | {"train/999.png": np.full((8, 12), 3, np.uint8)}, num_classes=4, splits=splits
    )
    return home


def run(home: Home, *arguments: str, code: int = 0) -> Any:
    return json.loads(invoke("diff", *arguments, "--json", "--home", home.folder, code=code).stdout)


def pixels_of(*maps: np.ndarray[Any, Any]) -> list[int]:
    return [int(sum((labels == class_id).sum() for labels in maps)) for class_id in range(4)]


def test_the_changes_are_those_of_the_label_maps(drifted: Home) -> None:
    result = run(drifted, "street@1", "street")
    maps = list(label_maps(images=12).values())
    before, after = pixels_of(*maps), pixels_of(*maps, np.full((8, 12), 3))
    assert [row["pixels"]["from"] for row in result["classes"]] == before
    assert [row["pixels"]["to"] for row in result["classes"]] == after
    assert [row["pixels"]["change"] for row in result["classes"]] == pytest.approx(
        [(new - old) / old for old, new in zip(before, after, strict=True)]
    )
    p, q = np.array(before) / sum(before), np.array(after) / sum(after)
    entropy = [float(-(x * np.log2(x)).sum()) for x in ((p + q) / 2, p, q)]
    assert result["distance"] == pytest.approx((entropy[0] - (entropy[1] + entropy[2]) / 2) ** 0.5)
    assert (result["from"]["version"], result["to"]["version"]) == (1, 2)


def test_groups_are_compared_with_each_other_and_within_a_split(home: Home) -> None:
    maps = label_maps(images=12)
    groups = {"tens": Grouping(pattern=r"^(\d\d)")}
    publish(home, "street", maps, num_classes=4, splits=detect(maps), groups=groups)

    def counted(folder: str, group: str) -> list[int]:
        return pixels_of(*(m for path, m in maps.items() if f"/{group}" in path and path.startswith(folder)))

    for prefix, folder in (("", ""), ("train/", "train/")):
        result = run(home, f"street/{prefix}tens:00", f"street/{prefix}tens:01")
        assert [row["pixels"]["from"] for row in result["classes"]] == counted(folder, "00")
        assert [row["pixels"]["to"] for row in result["classes"]] == counted(folder, "01")
        assert (result["from"]["split"], result["to"]["split"]) == (f"{prefix}tens:00", f"{prefix}tens:01")


def test_a_server_gives_the_same_differences_and_groups_as_its_home(home: Home) -> None:
    maps = label_maps(images=12)
    groups = {"tens": Grouping(pattern=r"^(\d\d)")}
    publish(home, "street", maps, num_classes=4, splits=detect(maps), groups=groups)
    places = ("street@1/train/tens:00", "street/tens:01")
    with serve(Path(home.folder), "--no-runner") as (url, _):
        shown = invoke("diff", *places, "--json", "--url", url).stdout
        listed = Client(url).groups("street", "tens", split="train")
        assert Client(url).groups("street")["rules"] == {"tens": r"^(\d\d)"}
    assert json.loads(shown) == run(home, *places)
    images = {group: sum(path.startswith(f"train/{group}") for path in maps) for group in ("00", "01")}
    assert {row["group"]: row["images"] for row in listed["groups"]} == {g: n for g, n in images.items() if n}


def test_the_exit_code_reports_drift_beyond_the_limit(drifted: Home) -> None:
    home = ("--home", drifted.folder)
    assert run(drifted, "street@1", "street@1", "--fail-if", "weight:0%")["exceeded"] == []
    assert run(drifted, "street@1", "street@2", "--fail-if", "weight:500%")["exceeded"] == []
    failed = run(drifted, "street@1", "street@2", "--fail-if", "weight:5%", "--fail-if", "distance:0", code=1)
    assert any("weight of class 3" in line for line in failed["exceeded"])
    assert any(line.startswith("distance") for line in failed["exceeded"])
    shown = invoke("diff", "street/train", "street/val", "--fail-if", "pixels:1%", *home, code=1)
    assert "distance" in shown.stdout
    assert "pixels of class" in shown.stderr
    assert "above the limit of 1%" in shown.stderr


@pytest.mark.parametrize("limit", ["weight", "weight:x", "weight:-1%", "wieght:5%", "weight:nan"])
def test_a_malformed_limit_is_a_usage_error(drifted: Home, limit: str) -> None:
    invoke("diff", "street", "street", "--fail-if", limit, "--home", drifted.folder, code=2)


@pytest.mark.parametrize("text", ["street@", "@1", "street/", "street@9", "steet", "street/tain"])
def test_an_unknown_place_is_a_usage_error(drifted: Home, text: str) -> None:
    invoke("diff", "street", text, "--home", drifted.folder, code=2)


def test_a_malformed_place_is_named_by_its_argument(drifted: Home) -> None:
    home = ("--home", drifted.folder)
    assert "FIRST: 'street@' is not NAME" in invoke("diff", "street@", "street", *home, code=2).stderr
    assert "SECOND: 'street@' is not NAME" in invoke("diff", "street", "street@", *home, code=2).stderr


def test_options_of_samplers_are_not_offered() -> None:
    # A difference is of weights that are not those of a sampler's stream, so these could only be refused.
    shown = invoke("diff", "--help").stdout
    assert "--strength" in shown
    for option in ("--sampler", "--temperature", "--min-pixels", "--threshold"):
        assert option not in shown


def test_a_class_that_appears_is_always_too_much() -> None:
    def answer(*rows: tuple[int, str, int]) -> dict[str, Any]:
        total = sum(pixels for _, _, pixels in rows)
        classes = [
            {"id": k, "name": name, "pixels": n, "images": 1, "frequency": n / total, "weight": 1.0}
            for k, name, n in rows
        ]
        return {"dataset": "street", "version": 1, "spec": {"split": None}, "classes": classes}

    result = difference(answer((0, "road", 10), (1, "car", 0)), answer((0, "road", 5), (1, "truck", 5)))
    assert exceeding(result, "pixels", 10.0) == [
        "pixels of class 1 (truck): 0 to 5, above any limit, such as 1000%"
    ]
    assert exceeding(result, "pixels", 0.495)[0] == (
        "pixels of class 0 (road): 10 to 5, -50.0%, above the limit of 49.5%"
    )
    assert result["warnings"] == ["class 1 is 'car' in the first and 'truck' in the second"]
    apart = difference(answer((0, "road", 1)), answer((1, "car", 1)))
    assert apart["distance"] == pytest.approx(1.0)
    assert exceeding(apart, "distance", 0.99) == ["distance 1.0000 is above the limit of 0.99"]
