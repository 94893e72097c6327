"""GET /datasets/{name}/diff and /cooccurrence, against the command line and NumPy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.api.app import build_app
from statsvc.classes.class_maps import ClassMap
from statsvc.dataset.splits import detect
from statsvc.errors import Unanswerable
from statsvc.weighting import cooccurrence
from support.command_line import invoke
from support.contract import ApiClient
from support.publishing import label_maps, publish
from support.small_tables import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.home import Home

RNG = np.random.default_rng(5)
MAPS = {
    f"{'val' if n % 4 == 3 else 'train'}/{n}.png": RNG.choice([*RNG.choice(7, 3, replace=False), 255], (4, 5))
    for n in range(60)
}
"""Label maps with few of the ids 0 to 6 each, and 255."""

MERGED = ClassMap("merged", ((0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (255, 255)))
"""A class map that merges ids, and does not contain 6."""


@pytest.fixture
def client(home: Home) -> Iterator[ApiClient]:
    """A client of an application with two versions of `street`, and `other`."""
    maps = label_maps(images=12)
    publish(home, "street", maps, num_classes=4, splits=detect(maps))
    more = maps | {"train/999.png": np.full((8, 12), 3, np.uint8)}
    publish(home, "street", more, num_classes=4, splits=detect(more))
    publish(home, "other", label_maps(1), num_classes=4)
    publish(home, "few", MAPS, num_classes=7, splits=detect(MAPS))
    publish(home, "mapped", MAPS, num_classes=3, class_map=MERGED, ignore_index=(255,))
    with ApiClient(build_app(home)) as client:
        yield client


@pytest.mark.parametrize(
    ("query", "sides"),
    [
        ("from=1", ("street@1", "street")),
        ("from=1&to=2&method=effective_num&beta=0.99", ("street@1", "street@2")),
        ("from=2/train&to=/val", ("street@2/train", "street/val")),
        ("from=1/val&to=other@1", ("street@1/val", "other@1")),
        ("from=other@&to=2", ("other", "street@2")),
    ],
)
def test_the_difference_is_that_of_the_command_line(
    client: ApiClient, home: Home, query: str, sides: tuple[str, str]
) -> None:
    options = ("--method", "effective_num", "--beta", "0.99") if "method" in query else ()
    printed = json.loads(invoke("diff", *sides, *options, "--json", "--home", home.folder).stdout)
    assert printed.pop("exceeded") == []
    response = client.get(f"/datasets/street/diff?{query}")
    assert response.json() == printed
    assert any(row["pixels"]["change"] for row in response.json()["classes"])


def test_a_difference_of_version_numbers_never_changes_and_errors_name_the_side(client: ApiClient) -> None:
    pinned = client.get("/datasets/street/diff?from=1&to=2")
    assert "immutable" in pinned.headers["cache-control"]
    assert client.get("/datasets/street/diff?from=1").headers["cache-control"] == "no-cache"
    unchanged = {"If-None-Match": pinned.headers["etag"]}
    assert client.get("/datasets/street/diff?from=1&to=2", headers=unchanged).status_code == 304
    for query, parameter in (
        ("", "from"),
        ("from=1&to=-1", "to"),
        ("from=1&to=a@b@c", "to"),
        ("from=-", "from"),
    ):
        errors = client.get(f"/datasets/street/diff?{query}").json()["errors"]
        assert [error["parameter"] for error in errors] == [parameter]
    for query in ("from=9", "from=nothing", "from=nothing@1", "from=1/nothing"):
        assert client.get(f"/datasets/street/diff?{query}").status_code == 404
    assert client.get("/datasets/street/diff?from=1&split=train").status_code == 422


def counted(classes: list[int], groups: dict[int, set[int]], prefix: str = "") -> list[list[int]]:
    """Return for each two classes the label maps below a prefix with ids of both groups."""
    present = [set(np.unique(m).tolist()) for path, m in MAPS.items() if path.startswith(prefix)]
    return [
        [sum(bool(ids & groups[r]) and bool(ids & groups[c]) for ids in present) for c in classes]
        for r in classes
    ]


@pytest.mark.parametrize(
    ("query", "classes", "prefix"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6], ""),
        ("ignore=2,5,255", [0, 1, 3, 4, 6], ""),
        ("split=val&ignore_index=255", [0, 1, 2, 3, 4, 5, 6], "val/"),
    ],
)
def test_images_with_two_classes_are_counted_without_ignored_ids(
    client: ApiClient, query: str, classes: list[int], prefix: str
) -> None:
    answer = client.get(f"/datasets/few/cooccurrence?{query}").json()
    assert [row["id"] for row in answer["classes"]] == classes
    assert answer["cooccurrence"] == counted(classes, {i: {i} for i in classes}, prefix)
    assert answer["images"] == sum(path.startswith(prefix) for path in MAPS)


def test_a_class_map_merges_ids_before_images_are_counted(client: ApiClient) -> None:
    answer: dict[str, Any] = client.get("/datasets/mapped/cooccurrence?version=1").json()
    assert answer["class_map"] == "merged"
    groups = {0: {0}, 1: {1, 2}, 2: {3, 4, 5}}
    assert answer["cooccurrence"] == counted([0, 1, 2], groups)
    raw = client.get("/datasets/mapped/cooccurrence?class_map=none&ignore=255").json()
    assert raw["cooccurrence"] == counted(list(range(7)), {i: {i} for i in range(7)})


def test_too_many_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence, "MAX_CLASSES", 2)
    assert len(cooccurrence.cooccurrence_response(table_of([{0: 1, 1: 1}]))["classes"]) == 2
    with pytest.raises(Unanswerable, match="3 classes occur"):
        cooccurrence.cooccurrence_response(table_of([{0: 1, 1: 1, 2: 1}]))
