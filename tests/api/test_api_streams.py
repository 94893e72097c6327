"""GET /weights of a stream, GET /datasets/{name}/sampling and GET /samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.api.app import build_app
from statsvc.dataset.splits import Split
from statsvc.store import home as homes
from support.contract import ApiClient
from support.publishing import publish, refresh_catalog_state
from support.reference_samplers import (
    OTHER_PIXELS,
    PATHS,
    PIXELS,
    daformer_probabilities,
    label_maps,
    lvis_repeat_factors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.home import Home

NAMES = ("road", "car", "person", "pole")


def others() -> dict[str, np.ndarray[Any, Any] | str]:
    return {
        f"{k}.png": np.repeat([*range(4), 255], [*row, 400 - sum(row)]).astype(np.uint8).reshape(20, 20)
        for k, row in enumerate(OTHER_PIXELS.tolist())
    }


def published(home: Home) -> None:
    splits = {"train": Split(paths=frozenset(PATHS[:4]))}
    publish(home, "a", label_maps() | {"z.png": "truncated"}, num_classes=4, class_names=NAMES, splits=splits)
    publish(home, "b", others(), num_classes=4, class_names=NAMES)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    home = homes.resolve(str(tmp_path_factory.mktemp("home")))
    published(home)
    with ApiClient(build_app(home)) as client:
        yield client


def problem(client: ApiClient, path: str, **params: Any) -> dict[str, Any]:
    response = client.get(path, params=params)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return dict(response.json())


def test_weights_of_the_stream_of_a_sampler(client: ApiClient) -> None:
    params = {"dataset": "a", "sampler": "rare_class", "temperature": "0.3", "min_pixels": "20"}
    body = client.get("/weights", params=params).raise_for_status().json()
    q = np.array(daformer_probabilities(PIXELS, 0.3, 20))
    share = q @ PIXELS / (q @ PIXELS).sum()
    np.testing.assert_allclose(body["weights"], share**-0.5 / (share**-0.5).mean(), rtol=1e-9)
    assert body["stream"] == {
        "sampler": "rare_class",
        "draws": 6,
        "datasets": [
            {
                "dataset": "a",
                "version": 1,
                "share": 1.0,
                "images": 6,
                "never_drawn": 1,
                "temperature": 0.3,
                "min_pixels": 20,
            }
        ],
    }
    assert (body["spec"]["sampler"], body["spec"]["min_pixels"]) == ("rare_class", 20)
    # Sending the spec of the response again returns the same weights.
    spec = {name: value for name, value in body["spec"].items() if value is not None}
    spec["ignore_index"] = ",".join(map(str, spec["ignore_index"]))
    assert client.get("/weights", params={"dataset": "a", **spec}).json()["weights"] == body["weights"]


def test_weights_of_a_mixture(client: ApiClient) -> None:
    body = client.get("/weights?dataset=a:7,b:3").raise_for_status().json()
    shown = 0.7 * PIXELS.mean(0) + 0.3 * OTHER_PIXELS.mean(0)
    share = shown / shown.sum()
    np.testing.assert_allclose(body["weights"], share**-0.5 / (share**-0.5).mean(), rtol=1e-9)
    assert (body["dataset"], body["version"], body["failed"]) == ("a@1:0.7,b@1:0.3", None, 1)
    assert any(w["message"].startswith("a: 1 sample could not be read") for w in body["warnings"])
    pinned = client.get("/weights", params={"dataset": body["dataset"]})
    assert pinned.json() == body
    assert pinned.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get("/weights?dataset=a@1:0.7,b:0.3").headers["cache-control"] == "no-cache"


def test_the_etag_of_a_mixture_depends_on_every_version_and_share(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    published(home)
    with ApiClient(build_app(home)) as client:

        def tag(dataset: str) -> str:
            return str(client.get("/weights", params={"dataset": dataset}).raise_for_status().headers["etag"])

        first = tag("a:0.7,b:0.3")
        assert tag("a:7,b:3") == tag("a@1:0.7,b@1:0.3") == first
        assert len({first, tag("a:0.6,b:0.4"), tag("b:0.7,a:0.3"), tag("a")}) == 4
        unchanged = client.get("/weights?dataset=a:0.7,b:0.3", headers={"If-None-Match": first})
        assert unchanged.status_code == 304
        publish(home, "b", {**others(), "new.png": np.zeros((4, 4), np.uint8)}, num_classes=4)
        refresh_catalog_state(client)
        assert tag("a:0.7,b:0.3") != first
        assert tag("a@1:0.7,b@1:0.3") == first
        client.put("/datasets/b/tags/paper", json={"version": 1}).raise_for_status()
        by_tag = client.get("/weights?dataset=a:0.7,b@paper:0.3")
        assert (by_tag.headers["etag"], by_tag.headers["cache-control"]) == (first, "no-cache")
        assert by_tag.json()["dataset"] == "a@1:0.7,b@1:0.3"
        assert "tags: paper" in client.get("/weights?dataset=a:0.7,b@papr:0.3").json()["detail"]


@pytest.mark.parametrize(
    ("params", "parameter", "says"),
    [
        ({"dataset": "a", "sampler": "rare-class"}, "sampler", "did you mean 'rare_class'"),
        (
            {"dataset": "a", "sampler": "image_weights"},
            "sampler",
            "derives image probabilities from class weights",
        ),
        ({"dataset": "a", "temperature": "0.1"}, "temperature", "belongs to sampler=rare_class"),
        ({"dataset": "a", "temperatur": "0.1"}, "temperatur", "did you mean 'temperature'"),
        (
            {"dataset": "a", "sampler": "rare_class", "method": "effective_num"},
            "method",
            "a stream has only shares",
        ),
        ({"dataset": "a:0.5,b:0.5", "method": "log_count"}, "method", "a stream has only shares"),
        ({"dataset": "a:0.5,b:0.5", "version": "1"}, "version", "a@3:0.7"),
        ({"dataset": "a:0.5,b"}, "dataset", "'b' has no share"),
        ({"dataset": "a:1"}, "dataset", "names only one dataset"),
    ],
)
def test_contradictory_parameters_are_rejected(
    client: ApiClient, params: dict[str, str], parameter: str, says: str
) -> None:
    body = problem(client, "/weights", **params)
    assert body["type"] == "/problems/invalid-parameter"
    assert [error["parameter"] for error in body["errors"]] == [parameter]
    assert says in body["detail"]


def test_an_unknown_dataset_in_a_mixture_is_404(client: ApiClient) -> None:
    response = client.get("/weights?dataset=a:0.5,bb:0.5")
    assert response.status_code == 404
    assert "no dataset 'bb'" in response.json()["detail"]
    assert client.get("/weights?dataset=a:0.5,b@7:0.5").status_code == 404


def walked(client: ApiClient, **params: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the samples of all pages, and the last page."""
    samples: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        body = client.get("/datasets/a/sampling", params={**params, **after}).raise_for_status().json()
        samples += body["samples"]
        if body["next"] is None:
            return samples, body
        assert len(body["samples"]) == params["limit"]
        after = {"after": body["next"]}


@pytest.mark.parametrize("limit", [1, 4, 6, 100])
def test_sampling_returns_the_probability_of_each_image_in_pages(client: ApiClient, limit: int) -> None:
    samples, body = walked(client, sampler="rare_class", temperature=0.3, min_pixels=20, limit=limit)
    assert [sample["path"] for sample in samples] == PATHS
    q = [sample["probability"] for sample in samples]
    np.testing.assert_allclose(q, daformer_probabilities(PIXELS, 0.3, 20), rtol=1e-9)
    assert (body["images"], body["failed"], body["epoch"], body["version"]) == (6, 1, 6.0, 1)
    assert [row["name"] for row in body["classes"]] == list(NAMES)
    assert [row["images"] for row in body["classes"]] == (PIXELS >= 20).sum(0).tolist()
    assert sum(row["probability"] for row in body["classes"]) == pytest.approx(1)
    assert body["spec"] == {
        "ignore_index": [255],
        "num_classes": 4,
        "class_map": "none",
        "unexpected": "report",
        "split": None,
        "temperature": 0.3,
        "min_pixels": 20,
    }


def test_sampling_of_a_split_and_with_repeat_factors(client: ApiClient) -> None:
    samples, body = walked(client, sampler="repeat_factor", threshold=0.9, split="train", limit=3)
    r = np.array(lvis_repeat_factors(PIXELS[:4], 0.9))
    assert [sample["path"] for sample in samples] == PATHS[:4]
    np.testing.assert_allclose([sample["probability"] for sample in samples], r / r.sum(), rtol=1e-9)
    assert body["epoch"] == pytest.approx(r.sum())
    assert [row["repeats"] for row in body["classes"]] == pytest.approx(
        [max(1, np.sqrt(0.9 / f)) if f else 1 for f in (PIXELS[:4] > 0).mean(0)]
    )


def test_sampling_by_image_weights_accepts_the_parameters_of_weights(client: ApiClient) -> None:
    params = {"method": "inverse_freq", "clip": "0,2", "ignore": "0"}
    weights = client.get("/weights", params={"dataset": "a", **params}).json()["weights"]
    samples, body = walked(client, sampler="image_weights", limit=100, **params)
    counted = PIXELS[:, 1:]
    mean = np.array([row @ weights[1:] / row.sum() if row.sum() else 0 for row in counted])
    np.testing.assert_allclose([s["probability"] for s in samples], mean / mean.sum(), rtol=1e-9)
    assert body["spec"]["method"] == "inverse_freq"
    assert [row["weight"] for row in body["classes"]] == weights[1:]


@pytest.mark.parametrize(
    ("params", "parameter", "says"),
    [
        ({}, "sampler", "expected one of rare_class, repeat_factor, image_weights"),
        ({"sampler": "rare"}, "sampler", "did you mean 'rare_class'"),
        ({"sampler": "rare_class", "method": "enet"}, "method", "sampler=image_weights"),
        ({"sampler": "image_weights", "temperature": "1"}, "temperature", "belongs to sampler=rare_class"),
        ({"sampler": "image_weights", "method": "pos_weight"}, "method", "needs class weights"),
        ({"sampler": "rare_class", "limit": "0"}, "limit", "out of range"),
        ({"sampler": "rare_class", "min_pixel": "5"}, "min_pixel", "did you mean 'min_pixels'"),
    ],
)
def test_sampling_rejects_unknown_and_invalid_parameters(
    client: ApiClient, params: dict[str, str], parameter: str, says: str
) -> None:
    body = problem(client, "/datasets/a/sampling", **params)
    assert [error["parameter"] for error in body["errors"]] == [parameter]
    assert says in body["detail"]


def test_sampling_has_the_same_cache_headers_as_weights(client: ApiClient) -> None:
    response = client.get("/datasets/a/sampling?sampler=rare_class&limit=2")
    again = client.get(
        "/datasets/a/sampling?sampler=rare_class&limit=2", headers={"If-None-Match": response.headers["etag"]}
    )
    assert again.status_code == 304
    for other in ("limit=3", f"limit=2&after={PATHS[1]}", "limit=2&temperature=1", "limit=2&split=train"):
        tag = client.get(f"/datasets/a/sampling?sampler=rare_class&{other}").headers["etag"]
        assert tag != response.headers["etag"], other
    pinned = client.get("/datasets/a/sampling?sampler=rare_class&version=1")
    assert "immutable" in pinned.headers["cache-control"]


def test_a_version_of_several_chunks_is_paged_without_gaps(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    maps = {f"{k:05}.png": (rng.random((2, 3)) < rng.random()).astype(np.uint8) for k in range(4500)}
    publish(home, "a", maps, num_classes=2)
    n = np.array([[np.count_nonzero(labels == c) for c in (0, 1)] for labels in maps.values()])
    with ApiClient(build_app(home)) as client:
        samples, _ = walked(client, sampler="rare_class", temperature=0.3, min_pixels=2, limit=999)
        body = client.get("/weights?sampler=rare_class&temperature=0.3&min_pixels=2").json()
    assert [sample["path"] for sample in samples] == sorted(maps)
    q = np.array(daformer_probabilities(n, 0.3, 2))
    np.testing.assert_allclose([sample["probability"] for sample in samples], q, rtol=1e-9)
    np.testing.assert_allclose([row["pixels"] for row in body["classes"]], 4500 * (q @ n), rtol=1e-9)


def test_samplers_are_described_and_documented(client: ApiClient) -> None:
    described = {sampler["name"]: sampler for sampler in client.get("/samplers").json()["samplers"]}
    assert list(described) == ["rare_class", "repeat_factor", "image_weights"]
    assert [p["name"] for p in described["rare_class"]["parameters"]] == ["temperature", "min_pixels"]
    assert [sampler["stream"] for sampler in described.values()] == [True, True, False]
    paths = client.get("/openapi.json").json()["paths"]
    documented = {p["name"] for p in paths["/datasets/{name}/sampling"]["get"]["parameters"]}
    assert {
        "name",
        "sampler",
        "temperature",
        "threshold",
        "min_pixels",
        "limit",
        "after",
        "method",
    } <= documented
    assert "sampler" in {p["name"] for p in paths["/weights"]["get"]["parameters"]}
