"""ETags, conditional requests and Cache-Control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statsvc.api.app import build_app
from statsvc.store import home as homes
from support.contract import ApiClient
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.home import Home

IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path", ["/weights", "/datasets/street/histogram", "/datasets", "/methods", "/samplers"]
)
@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("{tag}", 304),
        ("W/{tag}", 304),
        ('"other", {tag}', 304),
        ('"a,b" , W/"x",W/{tag}', 304),
        ("*", 304),
        (" * ", 304),
        ('"other"', 200),
        ("", 200),
        ("{bare}", 200),
        ('"*"', 200),
        ('"x{bare}"', 200),
    ],
)
def test_if_none_match_follows_rfc_9110(
    shared_client: ApiClient, path: str, header: str, status: int
) -> None:
    first = shared_client.get(path)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert tag.endswith('"')
    response = shared_client.get(path, headers={"If-None-Match": header.format(tag=tag, bare=tag.strip('"'))})
    assert response.status_code == status
    for name in ("etag", "cache-control", "vary"):
        assert response.headers.get(name) == first.headers.get(name)
    assert response.content == (b"" if status == 304 else first.content)


def test_several_if_none_match_fields_are_one_list(shared_client: ApiClient) -> None:
    tag = shared_client.get("/weights").headers["etag"]
    response = shared_client.get("/weights", headers=[("If-None-Match", '"a"'), ("If-None-Match", tag)])
    assert response.status_code == 304


def test_an_error_takes_precedence_over_if_none_match_any(shared_client: ApiClient) -> None:
    assert shared_client.get("/weights?split=none", headers={"If-None-Match": "*"}).status_code == 404


def test_different_requests_and_formats_have_different_etags(shared_client: ApiClient) -> None:
    queries = ("", "?format=csv", "?format=npy", "?method=uniform", "?num_classes=5", "?normalize=sum")
    tags = {shared_client.get(f"/weights{query}").headers["etag"] for query in queries}
    assert len(tags) == len(queries)


def test_equivalent_requests_have_the_same_etag(shared_client: ApiClient) -> None:
    queries = ("", "?method=sqrt_inv_freq", "?normalize=mean&absent=zero", "?dataset=street", "?version=1")
    tags = {shared_client.get(f"/weights{query}").headers["etag"] for query in queries}
    assert len(tags) == 1


def test_only_responses_for_a_version_number_are_immutable(shared_client: ApiClient) -> None:
    assert shared_client.get("/weights").headers["cache-control"] == "no-cache"
    pinned = shared_client.get("/weights?version=1")
    assert pinned.headers["cache-control"] == IMMUTABLE
    again = shared_client.get("/weights?version=1", headers={"If-None-Match": pinned.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, IMMUTABLE)
    histogram = shared_client.get("/datasets/street/histogram?version=1")
    assert histogram.headers["cache-control"] == IMMUTABLE
    assert shared_client.get("/weights?version=2").headers["cache-control"] == "no-store"


def test_two_applications_over_one_home_send_the_same_etag_and_bytes(
    shared_client: ApiClient, shared_home: Home
) -> None:
    with ApiClient(build_app(shared_home)) as replica:
        for path in ("/weights?method=median_freq", "/weights?format=csv", "/datasets/street/histogram"):
            first, second = shared_client.get(path), replica.get(path)
            assert first.headers["etag"] == second.headers["etag"]
            assert first.content == second.content


def test_the_same_counts_in_another_dataset_have_another_etag(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    publish(home, "copy", label_maps(), num_classes=4)
    with ApiClient(build_app(home)) as fresh:
        street, copy = fresh.get("/weights?dataset=street"), fresh.get("/weights?dataset=copy")
    assert street.json()["weights"] == copy.json()["weights"]
    assert street.headers["etag"] != copy.headers["etag"]
