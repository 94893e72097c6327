"""GET /weights: responses, parameters and formats."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.api.app import build_app
from statsvc.store import home as homes
from support.contract import ApiClient
from support.publishing import label_maps, publish, refresh_catalog_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.home import Home

MAPS = label_maps()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    home = homes.resolve(str(tmp_path_factory.mktemp("home")))
    publish(home, "street", MAPS, num_classes=4, class_names=("road", "car", "person", "bicycle"))
    with ApiClient(build_app(home)) as client:
        yield client


def sqrt_weights(maps: dict[str, np.ndarray[Any, Any]], classes: int) -> np.ndarray[Any, Any]:
    """1/sqrt(share), scaled to a mean of 1: an independent implementation on the pixels."""
    pixels = np.concatenate([labels.ravel() for labels in maps.values()])
    n = np.array([(pixels == c).sum() for c in range(classes)], float)
    raw = 1 / np.sqrt(n / n.sum())
    return np.asarray(raw / raw.mean())


def test_weights_follow_from_the_pixels(client: ApiClient) -> None:
    answer = client.get("/weights").json()
    np.testing.assert_allclose(answer["weights"], sqrt_weights(MAPS, 4), rtol=1e-12)
    assert (answer["dataset"], answer["version"], answer["images"], answer["failed"]) == ("street", 1, 6, 0)
    assert [row["name"] for row in answer["classes"]] == ["road", "car", "person", "bicycle"]
    assert [row["pixels"] for row in answer["classes"]] == [
        int(sum((labels == c).sum() for labels in MAPS.values())) for c in range(4)
    ]
    assert answer["ignored_pixels"] == 6 * 12


def test_each_parameter_reaches_the_computation(client: ApiClient) -> None:
    def weights(**params: Any) -> list[float]:
        return list(client.get("/weights", params=params).raise_for_status().json()["weights"])

    n = np.array([sum(int((m == c).sum()) for m in MAPS.values()) for c in range(4)], float)
    plain = {"normalize": "none"}
    np.testing.assert_allclose(weights(method="inverse_freq", **plain), n.sum() / (4 * n))
    np.testing.assert_allclose(weights(method="power", alpha="0.25", **plain), (n / n.sum()) ** -0.25)
    np.testing.assert_allclose(weights(method="uniform", multiply="car:2,3:1.5", **plain), [1, 2, 1, 1.5])
    np.testing.assert_allclose(
        weights(method="inverse_freq", clip="1,2", **plain), np.clip(n.sum() / (4 * n), 1, 2)
    )
    assert weights(ignore="0")[0] == 0
    assert weights(num_classes="6")[4:] == [0, 0]
    assert len(weights(class_map="binary")) == 2


def test_a_split_is_counted_from_its_own_images(home: Home) -> None:
    from statsvc.dataset.splits import detect

    publish(home, "street", MAPS, num_classes=4, splits=detect(MAPS))
    with ApiClient(build_app(home)) as client:
        for split in ("train", "val"):
            chosen = {path: labels for path, labels in MAPS.items() if path.startswith(split)}
            answer = client.get("/weights", params={"split": split, "absent": "zero"}).json()
            np.testing.assert_allclose(answer["weights"], sqrt_weights(chosen, 4), rtol=1e-12)
            assert answer["images"] == len(chosen)


@pytest.mark.parametrize("how", [{"params": {"format": "npy"}}, {"headers": {"Accept": "application/x-npy"}}])
def test_npy_is_a_float64_vector(client: ApiClient, how: dict[str, Any]) -> None:
    response = client.get("/weights", **how)
    assert response.headers["content-type"] == "application/x-npy"
    weights = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert weights.dtype == np.float64
    assert weights.tolist() == client.get("/weights").json()["weights"]


@pytest.mark.parametrize("how", [{"params": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}])
def test_csv_has_a_row_for_each_class(client: ApiClient, how: dict[str, Any]) -> None:
    response = client.get("/weights", **how)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    classes = client.get("/weights").json()["classes"]
    assert list(rows[0]) == [
        "id",
        "name",
        "pixels",
        "images",
        "frequency",
        "weight",
        "loss_share",
        "ignored",
        "absent",
    ]
    for row, expected in zip(rows, classes, strict=True):
        flags = {flag: row.pop(flag) for flag in ("ignored", "absent")}
        assert flags == {flag: str(expected.pop(flag, False)).lower() for flag in flags}
        assert {key: type(expected[key])(value) for key, value in row.items()} == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("text/html, application/xhtml+xml;q=0.9, */*;q=0.8", "application/json"),
        ("text/*;q=0.5, application/json;q=0.2", "text/csv; charset=utf-8"),
        ("application/json;q=0, */*", "text/csv; charset=utf-8"),
        ("text/csv;q=0.1, application/x-npy;q=0.2", "application/x-npy"),
        ("APPLICATION/JSON", "application/json"),
        ("nonsense, text/csv;q=x, application/x-npy", "application/x-npy"),
        ("", "application/json"),
    ],
)
def test_accept_chooses_the_format_by_quality(client: ApiClient, accept: str, expected: str) -> None:
    response = client.get("/weights", headers={"Accept": accept})
    assert response.headers["content-type"] == expected
    assert response.headers["vary"] == "Accept"


def test_an_accept_header_without_a_match_is_406_unless_format_is_set(client: ApiClient) -> None:
    rejected = client.get("/weights", headers={"Accept": "image/png"})
    assert (rejected.status_code, rejected.headers["content-type"]) == (406, "application/problem+json")
    assert rejected.json()["type"] == "/problems/not-acceptable"
    assert "text/csv" in rejected.json()["detail"]
    assert client.get("/weights?format=json", headers={"Accept": "image/png"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "parameter", "says"),
    [
        ("datset=street", "datset", "did you mean 'dataset'?"),
        ("metod=enet", "metod", "did you mean 'method'?"),
        ("formt=csv", "formt", "did you mean 'format'?"),
        ("method=sqrt", "method", "sqrt_inv_freq"),
        ("method=enet&method=uniform", "method", "more than once"),
        ("version=1&version=2", "version", "more than once"),
        ("method=effective_num&beta=nan", "beta", "nan"),
        ("method=effective_num&beta=inf", "beta", "inf"),
        ("method=effective_num&beta=1", "beta", "1"),
        ("method=power&alpha=1e400", "alpha", "finite"),
        ("method=power", "alpha", "requires"),
        ("method=enet&c=-Infinity", "c", "number"),
        ("multiply=road:nan", "multiply", "nan"),
        ("clip=0,1e400", "clip", "finite"),
        ("beta=0.9", "beta", "effective_num"),
        ("num_classes=0", "num_classes", "out of range"),
        ("num_classes=1e9", "num_classes", "integer"),
        ("ignore_index=one", "ignore_index", "integer"),
        ("ignore=1&ignore_index=2", "ignore", "one of them"),
        ("normalize=", "normalize", "empty"),
        ("format=xml", "format", "json, csv, npy"),
        ("version=2a", "version", "integer"),
        ("version=-1", "version", "out of range"),
        ("version=99999999999999999999", "version", "integer"),
    ],
)
def test_an_invalid_parameter_is_named(client: ApiClient, query: str, parameter: str, says: str) -> None:
    response = client.get(f"/weights?{query}")
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/invalid-parameter"
    assert [error["parameter"] for error in problem["errors"]] == [parameter]
    assert says in problem["errors"][0]["message"]
    assert response.headers["cache-control"] == "no-store"


def test_all_invalid_parameters_are_named_together(client: ApiClient) -> None:
    problem = client.get("/weights?alpha=9&normalize=no&method=power").json()
    assert {error["parameter"] for error in problem["errors"]} == {"alpha", "normalize"}


def test_ignore_index_may_be_repeated_or_a_list(client: ApiClient) -> None:
    repeated = client.get("/weights?ignore_index=0&ignore_index=255").json()
    assert repeated["spec"]["ignore_index"] == [0, 255]
    assert client.get("/weights?ignore=255,0").json() == repeated


def test_the_dataset_is_required_if_there_are_several(home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    with ApiClient(build_app(home)) as client:
        assert client.get("/weights").json()["dataset"] == "street"
        publish(home, "other", label_maps(1), num_classes=4)
        refresh_catalog_state(client)
        problem = client.get("/weights").json()
        assert problem["errors"][0]["parameter"] == "dataset"
        assert "other, street" in problem["detail"]
        assert client.get("/weights?dataset=other").json()["dataset"] == "other"
        missing = client.get("/weights?dataset=stret")
    assert missing.status_code == 404
    assert "did you mean 'street'?" in missing.json()["detail"]


def test_a_request_that_the_counts_cannot_answer_is_422_unanswerable(client: ApiClient) -> None:
    response = client.get("/weights?ignore_index=0,1,2,3,255")
    assert (response.status_code, response.json()["type"]) == (422, "/problems/unanswerable")
    response = client.get("/weights?num_classes=5&absent=error")
    assert (response.status_code, response.json()["type"]) == (422, "/problems/unanswerable")


def test_unknown_splits_and_versions_are_404(client: ApiClient) -> None:
    assert client.get("/weights?split=holdout").status_code == 404
    missing = client.get("/weights?version=7")
    assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")
    assert "newest version is 1" in missing.json()["detail"]


def test_head_has_the_headers_of_get_and_no_body(client: ApiClient) -> None:
    headers = {"X-Request-ID": "one"}
    got, head = client.get("/weights", headers=headers), client.head("/weights", headers=headers)
    assert head.status_code == 200
    assert head.content == b""
    assert dict(head.headers) == dict(got.headers)
    assert int(head.headers["content-length"]) == len(got.content)
    assert client.head("/weights?beta=7").status_code == 422


def test_failed_samples_are_reported(home: Home) -> None:
    publish(home, "street", {**MAPS, "train/bad.png": "cut off"}, num_classes=4)
    with ApiClient(build_app(home)) as client:
        answer = client.get("/weights").json()
    assert answer["failed"] == 1
    assert any("train/bad.png" in warning["message"] for warning in answer["warnings"])
    np.testing.assert_allclose(answer["weights"], sqrt_weights(MAPS, 4), rtol=1e-12)


def test_methods_are_described(client: ApiClient) -> None:
    from statsvc.weighting.methods import METHODS

    described = client.get("/methods").json()["methods"]
    assert [method["name"] for method in described] == list(METHODS)
    assert all(method["formula"] for method in described)


def test_openapi_documents_every_parameter(client: ApiClient) -> None:
    from statsvc.weighting.parameters import PARAMETERS

    document = client.get("/openapi.json").json()
    parameters = document["paths"]["/weights"]["get"]["parameters"]
    names = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    assert names == {*PARAMETERS, "ignore", "group", "dataset", "version", "format"}
    assert all(parameter["description"] for parameter in parameters)
    responses = document["paths"]["/weights"]["get"]["responses"]
    assert set(responses["200"]["content"]) == {"application/json", "text/csv", "application/x-npy"}
