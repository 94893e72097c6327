"""Heat maps on the command line and over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.store import home as homes
from support.commands import statsvc

if TYPE_CHECKING:
    from pathlib import Path


def test_heat_maps_have_the_share_of_each_class_in_each_tile(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[:10] = 1
    labels[30:, 30:] = 255
    other = labels.copy()
    other[20:, :15] = 2
    (tmp_path / "labels").mkdir()
    for number, image in enumerate((labels, other)):
        Image.fromarray(image).save(tmp_path / "labels" / f"{number}.png")
    home = ("--home", tmp_path / "home")
    statsvc("scan", tmp_path / "labels", "--name", "a", *home)
    refused = statsvc("heatmap", "a", *home, code=1)
    assert "statsvc scan --name a --grid 8x8" in refused.stderr
    statsvc("scan", "--name", "a", "--grid", "4x4", *home)

    plot = tmp_path / "heat.png"
    result = json.loads(statsvc("heatmap", "a", "-o", plot, "--json", *home).stdout)
    assert plot.stat().st_size > 1000
    share = {row["id"]: row["share"] for row in result["classes"]}
    assert set(share) == {0, 1, 2}
    assert share[1] == [[1.0] * 4, [0.0] * 4, [0.0] * 4, [0.0, 0.0, None, None]]
    assert share[2][2:] == [[0.5, 0.0, 0.0, 0.0], [0.5, 0.0, None, None]]
    assert "100.0 100.0 100.0 100.0" in statsvc("heatmap", "a", "--class-id", "1", *home).stdout

    with TestClient(build_app(homes.resolve(str(tmp_path / "home"))), base_url="http://127.0.0.1") as client:
        answer = client.get("/datasets/a/heatmap")
        assert answer.json() == result
        etag = {"If-None-Match": answer.headers["etag"]}
        assert client.get("/datasets/a/heatmap", headers=etag).status_code == 304
        (only,) = client.get("/datasets/a/heatmap?class_id=2").json()["classes"]
        assert only["share"] == share[2]
        assert client.get("/datasets/a/heatmap?class_id=7").status_code == 422
