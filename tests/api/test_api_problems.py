"""Every error is a problem document, and no error exposes internals."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from statsvc import errors
from statsvc.api.app import build_app
from statsvc.api.http.middleware import MAX_BODY
from support.contract import ApiClient
from support.publishing import label_maps, publish, refresh_catalog_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.home import Home

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def home(home: Home) -> Home:
    publish(home, "street", label_maps(), num_classes=4)
    return home


@pytest.fixture
def client(home: Home) -> Iterator[ApiClient]:
    app = build_app(home)
    with ApiClient(app, raise_server_exceptions=False) as client:
        yield client


def problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert list(body) == ["type", "title", "status", "detail", "errors"]
    assert (body["type"], body["status"]) == (f"/problems/{kind}", status)
    assert body["detail"]
    return body


def test_errors_of_the_framework_are_problems(client: ApiClient) -> None:
    problem(client.get("/nothing"), 404, "not-found")
    problem(client.get("/weights/"), 404, "not-found")
    problem(client.get("/weights", headers={"Accept": "image/png"}), 406, "not-acceptable")
    problem(client.post("/jobs", content=b"{", headers=JSON), 400, "malformed-request")
    problem(client.post("/jobs", content=b"\xff\xfe{", headers=JSON), 400, "malformed-request")
    problem(client.post("/jobs", content=b"[" * 60_000, headers=JSON), 400, "malformed-request")
    problem(client.post("/jobs", content=b"", headers=JSON), 422, "invalid-parameter")
    problem(client.post("/jobs", content=b"null", headers=JSON), 422, "invalid-parameter")


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/weights", "POST", "GET, HEAD"),
        ("/datasets", "DELETE", "GET, HEAD, POST"),
        ("/datasets/street", "PUT", "GET, HEAD, PATCH, DELETE"),
        ("/jobs", "DELETE", "GET, HEAD, POST"),
    ],
)
def test_an_unsupported_method_is_405_with_the_supported_methods(
    client: ApiClient, path: str, method: str, allow: str
) -> None:
    response = client.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_body_of_another_media_type_than_json_is_415(client: ApiClient, media: str) -> None:
    for method, path in (("POST", "/jobs"), ("POST", "/datasets"), ("PATCH", "/datasets/street")):
        response = client.request(method, path, content=b"{}", headers={"Content-Type": media})
        problem(response, 415, "unsupported-media-type")


def test_a_body_above_the_size_limit_is_413(client: ApiClient, home: Home) -> None:
    too_long = {**JSON, "Content-Length": str(MAX_BODY + 1)}
    problem(client.post("/jobs", content=b"{}", headers=too_long), 413, "content-too-large")
    with ApiClient(build_app(home)) as small:
        chunks = (b" " * 1024 for _ in range(MAX_BODY // 1024 + 1))
        problem(small.post("/jobs", content=chunks, headers=JSON), 413, "content-too-large")
        assert small.post("/jobs", content=b'{"dataset": "street"}', headers=JSON).status_code == 202


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "10.0.0.1", "[::2]:80", "::1"]
)
def test_an_unknown_host_name_is_rejected(client: ApiClient, host: str) -> None:
    body = problem(client.get("/weights", headers={"Host": host}), 421, "misdirected-request")
    assert "localhost" in body["detail"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9", "[::1]:8000", "localhost."])
def test_loopback_host_names_are_accepted_with_any_port(client: ApiClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_corrupt_version_is_500_with_the_name_of_the_array(client: ApiClient, home: Home) -> None:
    chunks = sorted(Path(str(home.store)).glob("*/*/class_pixels/c/0"))
    assert len(chunks) == 1
    data = bytearray(chunks[0].read_bytes())
    data[len(data) // 2] ^= 1
    chunks[0].write_bytes(data)
    body = problem(client.get("/weights"), 500, "damaged-version")
    assert "street version 1: array 'class_pixels'" in body["detail"]
    assert "statsvc scan" in body["detail"]
    assert "Traceback" not in body["detail"]


def test_cached_responses_are_served_while_the_arrays_are_missing(client: ApiClient, home: Home) -> None:
    import shutil

    before = client.get("/weights")
    shutil.rmtree(str(home.store))
    assert client.get("/weights").content == before.content
    problem(client.get("/datasets/street/samples"), 500, "damaged-version")


def test_a_failing_catalog_is_503_while_weights_are_served_from_memory(client: ApiClient, home: Home) -> None:
    before = client.get("/weights")
    assert "age" not in before.headers
    file = home.database.removeprefix("sqlite:///")
    with sqlite3.connect(file) as database:
        database.execute("ALTER TABLE datasets RENAME TO hidden")
    for path in ("/datasets", "/datasets/street"):
        response = client.get(path)
        body = problem(response, 503, "catalog-unavailable")
        assert response.headers["retry-after"] == "1"
        assert "SELECT" not in json.dumps(body)
    refresh_catalog_state(client)
    during = client.get("/weights?method=uniform")
    assert during.status_code == 200
    assert int(during.headers["age"]) >= 0
    assert "the catalog has not answered" in during.headers["warning"]
    assert "has not answered" in problem(client.get("/readyz"), 503, "catalog-unavailable")["detail"]
    ready = client.get("/readyz?for=reads").json()
    assert (ready["status"], ready["age"]) == ("ok", int(during.headers["age"]))
    with sqlite3.connect(file) as database:
        database.execute("ALTER TABLE hidden RENAME TO datasets")
    database.close()
    refresh_catalog_state(client)
    assert client.get("/datasets").status_code == 200
    assert "age" not in client.get("/weights").headers


def test_readiness_requires_the_catalog_schema_of_this_release(client: ApiClient, home: Home) -> None:
    assert client.get("/readyz").status_code == 200
    database = sqlite3.connect(home.database.removeprefix("sqlite:///"))
    with database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert "9999" in problem(client.get("/readyz"), 503, "catalog-unavailable")["detail"]
    assert "9999" in client.get("/readyz?for=reads").json()["catalog"]
    assert client.get("/weights").status_code == 200
    assert client.get("/healthz").status_code == 200
    for method, path, body in (
        ("POST", "/jobs", {"dataset": "street"}),
        ("POST", "/datasets", {"name": "other", "source": str(home.folder)}),
        ("PATCH", "/datasets/street", {"keep": 3}),
        ("DELETE", "/datasets/street", None),
    ):
        response = client.request(method, path, json=body)
        assert "9999" in problem(response, 503, "catalog-unavailable")["detail"]
    database = sqlite3.connect(home.database.removeprefix("sqlite:///"))
    assert database.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone() == (0,)
    assert database.execute("SELECT keep, deleted_at FROM datasets").fetchall() == [(20, None)]
    database.close()


def test_a_newer_schema_that_only_adds_can_be_used(client: ApiClient, home: Home) -> None:
    database = sqlite3.connect(home.database.removeprefix("sqlite:///"))
    with database:
        database.execute("INSERT INTO schema_versions VALUES ('9999', '0004')")
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert client.get("/readyz").json()["catalog"] == "ok"
    with ApiClient(build_app(home)) as restarted:
        assert restarted.get("/readyz").status_code == 200


def test_an_application_over_an_unknown_schema_is_rejected(home: Home) -> None:
    database = sqlite3.connect(home.database.removeprefix("sqlite:///"))
    with database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(errors.CatalogError):
        build_app(home)


def test_an_unexpected_error_does_not_expose_its_text(home: Home) -> None:
    app = build_app(home)

    @app.get("/boom", include_in_schema=False)
    async def boom() -> None:
        raise RuntimeError("secret")

    with ApiClient(app, raise_server_exceptions=False) as client:
        response = client.get("/boom")
    problem(response, 500, "internal-error")
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidParameter(("beta", "is odd")), 422, "invalid-parameter"),
        (errors.NotFound("it"), 404, "not-found"),
        (errors.Conflict("it"), 409, "conflict"),
        (errors.Unanswerable("it"), 422, "unanswerable"),
        (errors.SourceError("it"), 422, "source"),
        (errors.AmbiguousSource("it", ["*.png"]), 422, "source"),
        (errors.DamagedVersion("it"), 500, "damaged-version"),
        (errors.CatalogError("it"), 503, "catalog-unavailable"),
    ],
)
def test_each_exception_of_statsvc_has_its_status(
    home: Home, error: Exception, status: int, kind: str
) -> None:
    app = build_app(home)

    @app.get("/raises", include_in_schema=False)
    async def raises() -> None:
        raise error

    with ApiClient(app) as client:
        body = problem(client.get("/raises"), status, kind)
    assert body["detail"] == str(error)
