"""Divisions and group rules over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.api.app import build_app
from support.contract import ApiClient
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.home import Home

MAPS = label_maps(images=12)
URL = "/datasets/street/splits"


@pytest.fixture
def client(home: Home) -> Iterator[ApiClient]:
    publish(home, "street", MAPS, num_classes=4)
    with ApiClient(build_app(home)) as client:
        yield client


def test_registered_folds_are_splits(client: ApiClient) -> None:
    division = client.post(URL, json={"folds": 3}).json()
    assert division["registered"] == 2
    assert sorted(path for paths in division["samples"].values() for path in paths) == sorted(MAPS)
    for name, paths in division["samples"].items():
        answer = client.get(f"/weights?dataset=street&split={name}_val").json()
        expected = np.sum([np.bincount(MAPS[path][1:].ravel(), minlength=4) for path in paths], axis=0)
        assert [row["pixels"] for row in answer["classes"]] == expected.tolist()
    conflict = client.post(URL, json={"folds": 4})
    assert conflict.status_code == 409
    assert client.post(URL, json={"folds": 4, "replace": True}).json()["registered"] == 3


def test_a_division_that_is_not_registered_changes_nothing(client: ApiClient) -> None:
    body = {"parts": {"a": 0.5, "b": 0.5}, "seed": 3, "dry_run": True}
    division = client.post(URL, json=body).json()
    assert division["registered"] is None
    assert [part["images"] for part in division["parts"]] == [6, 6]
    assert client.post(URL, json=body).json() == division
    assert client.get("/datasets/street").json()["version"] == 1


def test_group_rules_are_configured_and_used(client: ApiClient) -> None:
    rule = {"pattern": r"^(\d\d)"}
    changed = client.patch("/datasets/street", json={"groups": {"tens": rule}})
    assert changed.json()["configuration"]["groups"] == {"tens": rule}
    division = client.post(URL, json={"folds": 2, "group": "tens", "dry_run": True}).json()
    assert division["groups"]["count"] == 2
    assert {
        tuple(sorted({path.split("/")[1][:2] for path in paths})) for paths in division["samples"].values()
    } == {
        ("00",),
        ("01",),
    }
    client.patch("/datasets/street", json={"groups": None})
    assert "groups" not in client.get("/datasets/street").json()["configuration"]


def test_every_request_for_a_split_accepts_a_group(client: ApiClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        names = {parameter["name"] for parameter in methods.get("get", {}).get("parameters", [])}
        assert ("split" in names) is ("group" in names), path


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "either a number of folds"),
        ({"folds": 2, "parts": {"a": 1}}, 422, "either a number of folds"),
        ({"folds": 200}, 422, "2 to 100"),
        ({"folds": 13}, 422, "cannot fill 13 parts"),
        ({"folds": 2, "group": "(a)\\1"}, 422, "invalid escape sequence"),
        ({"folds": 2, "group": "city"}, 404, "no group rule"),
        ({"folds": 2, "split": "x"}, 404, "no split"),
        ({"folds": 2, "seeds": 1}, 422, "unknown field"),
    ],
)
def test_a_request_that_cannot_be_answered_is_rejected(
    client: ApiClient, body: dict[str, Any], status: int, message: str
) -> None:
    response = client.post(URL, json=body)
    assert response.status_code == status
    assert message in response.text


def test_groups_are_listed_with_their_shares_and_selected_by_weights(client: ApiClient) -> None:
    client.patch("/datasets/street", json={"groups": {"tens": {"pattern": r"^(\d\d)"}}})
    answer = client.get("/datasets/street/groups?by=tens").json()
    assert [(row["group"], row["images"]) for row in answer["groups"]] == [("00", 10), ("01", 2)]
    for row in answer["groups"]:
        maps = [labels for path, labels in MAPS.items() if path.split("/")[1].startswith(row["group"])]
        expected = np.sum([np.bincount(labels[1:].ravel(), minlength=4) for labels in maps], axis=0)
        assert row["pixels"] == expected.sum()
        assert row["shares"] == pytest.approx(
            {str(c): n / expected.sum() for c, n in enumerate(expected) if n}
        )
        weights = client.get(f"/weights?dataset=street&group=tens:{row['group']}").json()
        assert [entry["pixels"] for entry in weights["classes"]] == expected.tolist()
        assert weights["images"] == row["images"]
        for entry, weight in zip(answer["classes"], weights["weights"], strict=True):
            assert entry["weight_min"] - 1e-9 <= weight <= entry["weight_max"] + 1e-9 or weight == 0
    histogram = client.get("/datasets/street/histogram?group=tens:01").json()
    assert histogram["images"] == 2
    assert client.get("/weights?dataset=street&group=tens:99").status_code == 422
    assert client.get("/weights?dataset=street&group=city:x").status_code == 404
    # Within a split: the samples that are in both.
    client.patch("/datasets/street", json={"splits": {"train": {"folder": "train"}}})
    in_train = [path for path in MAPS if path.startswith("train/00")]
    expected = np.sum([np.bincount(MAPS[path][1:].ravel(), minlength=4) for path in in_train], axis=0)
    for query in ("split=train&group=tens:00", "group=train/tens:00", "split=train/tens:00"):
        weights = client.get(f"/weights?dataset=street&{query}").json()
        assert weights["split"] == weights["spec"]["split"] == "train/tens:00"
        assert [entry["pixels"] for entry in weights["classes"]] == expected.tolist()
    answer = client.get("/datasets/street/groups?by=tens&split=train").json()
    assert answer["split"] == "train"
    assert (answer["groups"][0]["images"], answer["groups"][0]["pixels"]) == (len(in_train), expected.sum())
    folder = client.get("/weights?dataset=street&split=train&group=folder:1:train").json()
    assert folder["images"] == sum(path.startswith("train/") for path in MAPS)
    empty = client.get("/weights?dataset=street&split=train&group=tens:99")
    assert "no sample of split 'train' is in the group tens:99" in empty.json()["detail"]
    assert client.get("/weights?dataset=street&split=absent&group=tens:00").status_code == 404
    listed = client.get("/datasets/street/groups").json()
    assert listed["rules"] == {"tens": r"^(\d\d)"}
    assert listed["groups"] == []
    assert client.get("/datasets/street/groups?by=(%3F%3Da)").status_code == 422
