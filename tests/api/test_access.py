"""Tokens: which requests require one, what each scope permits, the audit log, and secrecy."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import stat
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from statsvc.api import serve
from statsvc.api.app import build_app
from statsvc.api.http.access import Policy
from statsvc.api.http.descriptions import job_description
from statsvc.api.state.job_events import JobEvents
from statsvc.errors import InvalidParameter, NotFound
from statsvc.store import home as homes
from statsvc.store.catalog import idempotency, jobs, tokens
from statsvc.store.catalog.catalog import Catalog
from support.commands import statsvc
from support.contract import ApiClient
from support.publishing import label_maps, publish, refresh_catalog_state
from support.servers import free_port
from support.waiting import TIMEOUT, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.home import Home

WRITES, READS = Policy(writes=True), Policy(reads=True)


@pytest.fixture
def home(home: Home) -> Home:
    publish(home, "street", label_maps(), num_classes=4)
    return home


def client_of(home: Home, policy: Policy) -> ApiClient:
    return ApiClient(build_app(home, policy=policy))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/weights", None),
    ("HEAD", "/weights", None),
    ("POST", "/jobs", {"dataset": "street"}),
    ("PATCH", "/datasets/street", {"num_classes": 5}),
    ("DELETE", "/datasets/nothing", None),
]
REQUIRED_SCOPES = ["read", "read", "write", "write", "admin"]


@pytest.mark.parametrize("policy", [WRITES, READS], ids=["writes", "reads"])
@pytest.mark.parametrize("scope", [None, *tokens.SCOPES])
def test_a_scope_permits_its_own_requests_and_those_of_lower_scopes(
    home: Home, catalog: Catalog, policy: Policy, scope: str | None
) -> None:
    headers = {} if scope is None else bearer(tokens.create(catalog, scope, "ci")[1])
    with client_of(home, policy) as client:
        for (method, path, body), required in zip(REQUESTS, REQUIRED_SCOPES, strict=True):
            response = client.request(method, path, json=body, headers=headers)
            is_open = required == "read" and not policy.reads
            if is_open or (scope is not None and tokens.SCOPES.index(scope) >= tokens.SCOPES.index(required)):
                assert response.status_code in (200, 202, 404)
                continue
            assert response.status_code == (401 if scope is None else 403)
            challenge = response.headers["www-authenticate"]
            assert challenge.startswith('Bearer realm="statsvc"')
            assert (f'scope="{required}"' in challenge) == (scope is not None)
            if method != "HEAD":
                assert response.headers["content-type"] == "application/problem+json"
                assert required in response.json()["detail"]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert catalog.dataset("street").current_number == (2 if scope in ("write", "admin") else 1)


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Bearer \xc3\xa4\xff\x80",
        "Bearer ä😀".encode(),
        b"Basic dXNlcjpwYXNz",
        b"TOKEN",
        b"Bearer TOKEN TOKEN",
        b"Bearer " + b"x" * 5000,
    ],
)
def test_an_invalid_token_is_rejected_whatever_bytes_it_has(
    home: Home, catalog: Catalog, value: bytes
) -> None:
    _, secret = tokens.create(catalog, "admin", "ci")
    credentials = value.replace(b"TOKEN", secret.encode())
    with client_of(home, READS) as client:
        response = client.get("/weights", headers=[(b"Authorization", credentials)])
        assert response.status_code == 401
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
        twice = client.get("/weights", headers=[(b"Authorization", f"Bearer {secret}".encode())] * 2)
        assert twice.status_code == 401
        assert client.get(f"/weights?token={secret}").status_code == 401
        assert client.get("/weights", headers={"authorization": f"bearer {secret}"}).status_code == 200


def test_the_catalog_stores_no_secret_and_a_revoked_token_is_rejected_after_the_next_poll(
    home: Home, catalog: Catalog
) -> None:
    token, secret = tokens.create(catalog, "write", "ci")
    _, other = tokens.create(catalog, "read", "ann")
    catalog.close()
    files = list(home.folder.glob("catalog*"))
    assert files
    assert not any(secret.encode() in file.read_bytes() for file in files)
    with client_of(home, READS) as client:
        assert client.get("/weights", headers=bearer(secret)).status_code == 200
        assert tokens.revoke(catalog, token.id).revoked_at is not None
        refresh_catalog_state(client)
        assert client.get("/weights", headers=bearer(secret)).status_code == 401
        assert client.get("/weights", headers=bearer(other)).status_code == 200
    with pytest.raises(NotFound, match="statsvc token list"):
        tokens.revoke(catalog, "none")
    with pytest.raises(InvalidParameter, match="did you mean 'write'"):
        tokens.create(catalog, "writes", "ci")
    with pytest.raises(InvalidParameter, match="name"):
        tokens.create(catalog, "write", "a\nb")


def test_token_checks_do_not_access_the_catalog(home: Home, catalog: Catalog) -> None:
    _, secret = tokens.create(catalog, "read", "ci")
    with client_of(home, READS) as client:
        client.get("/weights", headers=bearer(secret))
        client.app.state.service.catalog.close()  # type: ignore[attr-defined]
        catalog.close()
        for file in home.folder.glob("catalog*"):
            file.rename(file.with_name(f"away-{file.name}"))
        assert client.get("/weights", headers=bearer(secret)).status_code == 200
        assert client.get("/weights", headers=bearer("no")).status_code == 401


def test_shared_caches_do_not_store_responses_that_required_a_token(home: Home, catalog: Catalog) -> None:
    _, secret = tokens.create(catalog, "read", "ci")
    immutable = "max-age=31536000, immutable"
    with client_of(home, WRITES) as client:
        assert client.get("/weights?version=1").headers["cache-control"] == f"public, {immutable}"
    with client_of(home, READS) as client:
        pinned = client.get("/weights?version=1", headers=bearer(secret))
        assert pinned.headers["cache-control"] == f"private, {immutable}"
        again = client.get(
            "/weights?version=1", headers=bearer(secret) | {"If-None-Match": pinned.headers["etag"]}
        )
        assert (again.status_code, again.headers["cache-control"]) == (304, f"private, {immutable}")
        assert client.get("/weights", headers=bearer(secret)).headers["cache-control"] == "no-cache"


def test_every_write_is_logged_without_secrets(
    home: Home, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    token, secret = tokens.create(catalog, "write", "ci")
    caplog.set_level(logging.INFO, "statsvc.audit")
    with client_of(home, WRITES) as client:
        client.get("/weights")
        client.post(f"/jobs?token={secret}", json={"dataset": "street"}, headers=bearer(secret))
        client.post("/jobs", json={"dataset": "street"}, headers=bearer(secret))
        client.delete("/datasets/street", headers=bearer("guess"))
    lines = [record.getMessage() for record in caplog.records if record.name == "statsvc.audit"]
    assert lines == [
        f"POST /jobs 422 token={token.id} (ci) client=testclient",
        f"POST /jobs 202 token={token.id} (ci) client=testclient",
        "DELETE /datasets/street 401 token=- client=testclient",
    ]
    assert secret not in caplog.text
    assert "guess" not in caplog.text


def test_a_web_page_of_another_origin_cannot_write(home: Home, catalog: Catalog) -> None:
    job, _ = jobs.submit(catalog, catalog.dataset("street"))
    cancel = f"/jobs/{job.id}/cancel"
    with client_of(home, Policy()) as client:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", ""):
            response = client.post(cancel, headers={"Origin": origin})
            assert (response.status_code, response.json()["type"]) == (403, "/problems/cross-origin")
        for site in ("cross-site", "same-site", ""):
            for own in ({}, {"Origin": "http://127.0.0.1"}):
                response = client.post(cancel, headers={"Sec-Fetch-Site": site} | own)
                assert (response.status_code, response.json()["type"]) == (403, "/problems/cross-origin")
        assert client.post(cancel, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
        assert client.delete("/datasets/street", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.get("/weights", headers={"Origin": "http://evil.example"}).status_code == 200
        assert jobs.get(catalog, job.id).state == "queued"
        assert client.post(cancel, headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_an_event_stream_ends_when_its_token_is_revoked(home: Home, catalog: Catalog) -> None:
    token, _ = tokens.create(catalog, "read", "ci")
    valid = {token.id}
    job, _ = jobs.submit(catalog, catalog.dataset("street"))
    events = JobEvents(catalog)

    async def read() -> list[bytes]:
        received = []
        description = job_description(job, "street")
        async for event in events.stream(job.id, description, "10.0.0.1", lambda: token.id in valid):
            received.append(event)
            valid.clear()
        await events.close()
        return received

    assert len(asyncio.run(asyncio.wait_for(read(), TIMEOUT))) == 1
    assert events.has_place("10.0.0.1")


def test_readiness_tells_a_client_without_a_token_nothing_more(home: Home, catalog: Catalog) -> None:
    _, secret = tokens.create(catalog, "read", "ci")
    for policy in (Policy(), WRITES, READS):
        with client_of(home, policy) as client:
            error = "s3://secret-bucket: cannot be reached"
            client.app.state.service.store = SimpleNamespace(last_error=error)  # type: ignore[attr-defined]
            assert client.get("/readyz", headers=bearer(secret)).json()["store"] == error
            expected = error if policy == Policy() else "unavailable"
            assert client.get("/readyz").json()["store"] == expected


def test_idempotency_keys_of_two_tokens_are_independent(
    home: Home, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEYS", 2)
    publish(home, "other", label_maps(), num_classes=4)
    secrets = [tokens.create(catalog, "write", name)[1] for name in ("ann", "bob")]
    for dataset in ("street", "other"):
        catalog.set_source(catalog.dataset(dataset), "/labels", "*.png")

    def post(secret: str, dataset: str, key: str) -> Any:
        headers = bearer(secret) | {"Idempotency-Key": key}
        return client.post("/jobs", json={"dataset": dataset}, headers=headers)

    with client_of(home, WRITES) as client:
        assert post(secrets[0], "street", "k").status_code == 202
        assert post(secrets[1], "other", "k").status_code == 202
        refused = post(secrets[0], "other", "k")
        assert refused.status_code == 409
        assert "created job" not in refused.text
        assert post(secrets[0], "other", "l").status_code == 202
        assert "limit" in post(secrets[0], "other", "m").json()["detail"]
        assert post(secrets[1], "other", "m").status_code == 202


def test_forwarded_addresses_come_from_configured_proxies_only(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(serve._Server, "run", lambda server, sockets: configs.append(server.config))
    serve.run(home, "127.0.0.1", 0, [])
    serve.run(home, "127.0.0.1", 0, [], proxies=[ipaddress.ip_network("10.0.0.0/24")])
    assert [config.proxy_headers for config in configs] == [False, True]
    assert configs[1].forwarded_allow_ips == ["10.0.0.0/24"]


def test_a_new_home_and_catalog_are_private(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "new" / "home"))
    catalog = Catalog.open(home.database)
    tokens.create(catalog, "read", "ci")
    files = list(home.folder.glob("catalog.sqlite*"))
    assert len(files) >= 2  # SQLite's own files, too
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    catalog.close()


def test_openapi_documents_which_requests_require_a_token(home: Home) -> None:
    for policy, reads in ((Policy(), False), (WRITES, False), (READS, True)):
        schema = build_app(home, policy=policy).openapi()
        assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        secured = {
            (method, path)
            for path, operations in schema["paths"].items()
            for method, operation in operations.items()
            if operation.get("security") == [{"token": []}]
        }
        assert (("get", "/weights") in secured) == reads
        assert (("post", "/jobs") in secured) == (policy != Policy())
        assert ("get", "/healthz") not in secured


def test_a_server_that_is_not_on_loopback_requires_tokens_for_writes_and_accepts_ip_addresses(
    tmp_path: Path,
) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    home_option = ["--home", str(home.folder)]
    port = free_port()
    rejected = statsvc("serve", "--host", "0.0.0.0", "--port", str(port), *home_option, code=2)
    assert "--host: 0.0.0.0 is not a loopback address" in rejected.stderr
    assert "statsvc token create --scope write" in rejected.stderr
    rejected = statsvc("serve", "--require-token-for-reads", "--port", str(port), *home_option, code=2)
    assert "--require-token-for-reads: no token exists" in rejected.stderr
    created = statsvc("token", "create", "--scope", "write", "--name", "ci", *home_option)
    secret = created.stdout.strip()
    assert len(secret) > 40
    assert "not shown again" in created.stderr
    command = [sys.executable, "-m", "statsvc", "serve", "--no-runner", "--host", "0.0.0.0"]
    command += ["--port", str(port), "--allow-host", "stats.example.org", *home_option]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"LANG": "C"})
    try:
        assert server.stderr is not None
        while "Serving on" not in server.stderr.readline():
            assert server.poll() is None
        url = f"http://127.0.0.1:{port}"
        assert httpx2.get(f"{url}/weights").status_code == 200
        for host, status in (
            ("192.0.2.7", 200),
            ("[2001:db8::1]:8000", 200),
            ("stats.example.org", 200),
            ("evil.example.org", 421),
        ):
            assert httpx2.get(f"{url}/weights", headers={"Host": host}).status_code == status, host
        body = {"dataset": "street"}
        assert httpx2.post(f"{url}/jobs", json=body).status_code == 401
        # The address that a client claims to have is not that in the log.
        forged = bearer(secret) | {"X-Forwarded-For": "10.9.8.7 token=deadbeef (admin)"}
        assert httpx2.post(f"{url}/jobs", json=body, headers=forged).status_code == 202
        listed = json.loads(statsvc("token", "list", "--json", *home_option).stdout)
        assert [(token["name"], token["scope"], token["revoked"]) for token in listed] == [
            ("ci", "write", None)
        ]
        statsvc("token", "revoke", listed[0]["id"], *home_option)
        wait_for(lambda: httpx2.post(f"{url}/jobs", json=body, headers=bearer(secret)).status_code == 401)
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=TIMEOUT)
    assert f"POST /jobs 202 token={listed[0]['id']} (ci) client=127.0.0.1" in errors
    assert secret not in errors
