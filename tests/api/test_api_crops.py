"""Weights and histograms of random crops over HTTP, and datasets with and without a grid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.api.state.snapshot import Published
from statsvc.store import home as homes
from support.commands import statsvc

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("crops")
    labels = np.zeros((300, 400), np.uint8)
    labels[:30] = 1
    labels[140:160, 180:220] = 2
    (root / "labels").mkdir()
    Image.fromarray(labels).save(root / "labels" / "a.png")
    for name, options in (("plain", ()), ("tiled", ("--grid", "8x8"))):
        statsvc("scan", str(root / "labels"), "--name", name, *options, "--home", root / "home")
    with TestClient(build_app(homes.resolve(str(root / "home"))), base_url="http://127.0.0.1") as made:
        yield made


def test_crops_have_their_own_answers_and_etags(client: TestClient) -> None:
    whole = client.get("/weights?dataset=tiled")
    cropped = client.get("/weights?dataset=tiled&crop=100x100")
    body = cropped.json()
    assert whole.json()["exact"]
    assert (body["exact"], body["approximation"]) == (False, {"grid": "8x8"})
    assert body["stream"]["crop"] == [100, 100]
    assert (body["spec"]["crop"], body["spec"]["scale"]) == ([100, 100], [1.0, 1.0])
    # The strip at the upper edge is cropped less often than the middle.
    assert body["classes"][1]["seen"] < 0.5 < 1.5 < body["classes"][2]["seen"]
    assert whole.headers["etag"] != cropped.headers["etag"]
    etag = {"If-None-Match": cropped.headers["etag"]}
    assert client.get("/weights?dataset=tiled&crop=100", headers=etag).status_code == 304
    assert client.get("/weights?dataset=tiled&crop=100&scale=2", headers=etag).status_code == 200
    assert [warning["code"] for warning in whole.json()["warnings"]] == ["crop_matters"]


def test_without_its_grid_a_version_has_another_etag(client: TestClient) -> None:
    """Its answers no longer warn that crops matter."""
    snapshot = client.app.state.service.watcher.snapshot  # type: ignore[attr-defined]
    for name, is_same in (("plain", True), ("tiled", False)):
        _, published = snapshot.dataset(name)
        expired = Published.of(name, replace(published.record, expired_at=1.0))
        assert expired.digest == published.digest_under(None)
        assert (expired.digest_under(None) == expired.digest) is is_same


def test_a_histogram_of_crops_has_the_shares_of_the_weights(client: TestClient) -> None:
    weights = client.get("/weights?dataset=tiled&crop=100").json()
    histogram = client.get("/datasets/tiled/histogram?crop=100").json()
    assert [row["pixels"] for row in histogram["classes"]] == [row["pixels"] for row in weights["classes"]]
    assert histogram["pixels"] == pytest.approx(100 * 100)
    assert sum(row["share"] for row in histogram["classes"]) == pytest.approx(1)


def test_a_dataset_without_a_grid_answers_as_before_and_says_how_to_get_one(client: TestClient) -> None:
    assert client.get("/weights?dataset=plain").json()["warnings"] == []
    for url in ("/weights?dataset=plain&crop=100", "/datasets/plain/histogram?crop=100"):
        response = client.get(url)
        assert response.status_code == 422
        assert "statsvc scan --name plain --grid 8x8" in response.json()["detail"]
    assert "grid" not in client.get("/datasets/plain").json()["configuration"].get("counting", {})
    assert client.get("/datasets/tiled").json()["configuration"]["counting"] == {"grid": "8x8"}


def test_a_grid_can_be_set_over_http(client: TestClient) -> None:
    changed = client.patch("/datasets/plain", json={"grid": "4x4"})
    assert changed.json()["configuration"]["counting"] == {"grid": "4x4"}
    assert client.get("/weights?dataset=plain&crop=100").status_code == 422  # until the next scan
    assert client.patch("/datasets/plain", json={"grid": "129x1"}).status_code == 422
    schema = client.get("/openapi.json").json()["components"]["schemas"]["DatasetChanges"]["properties"][
        "grid"
    ]
    [text] = [item for item in schema["anyOf"] if item["type"] == "string"]
    for grid, conforms, answer in (("2x4x4", True, 200), ("128x128x2", True, 422), ("0x1x1", False, 422)):
        assert bool(re.search(text["pattern"], grid)) == conforms
        refused = client.patch("/datasets/plain", json={"grid": grid})
        assert (refused.status_code, refused.json().get("schema_valid", False)) == (
            answer,
            conforms and answer == 422,
        )
    assert "counting" not in client.patch("/datasets/plain", json={"grid": None}).json()["configuration"]
