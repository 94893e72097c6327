"""Answers never are out of date silently: reads after writes on every replica, and a silent catalog."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from statsvc.api.app import build_app
from statsvc.api.http.access import Policy
from statsvc.api.state import snapshot
from statsvc.dataset.configuration import Configuration
from statsvc.store import home as homes
from statsvc.store.catalog import postgresql as limits
from statsvc.store.catalog import tags, tokens
from statsvc.store.catalog.catalog import Catalog
from support.contract import ApiClient
from support.publishing import label_maps, publish
from support.silent_proxy import silent_proxy
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.home import Home
    from support.postgres import PostgresServer
    from support.silent_proxy import SilentProxy


def test_every_replica_answers_from_a_version_as_soon_as_it_is_published(
    home: Home, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "POLL_SECONDS", 3600.0)  # nothing but the request itself reads the catalog
    catalog.create_dataset("street", "/labels", None, Configuration())
    with ApiClient(build_app(home)) as one, ApiClient(build_app(home)) as two:
        for replica in (one, two):
            assert replica.get("/weights?dataset=street").status_code == 404
        for number in (1, 2, 3):
            publish(home, "street", label_maps(number), num_classes=4)
            tags.put(catalog, catalog.dataset("street"), "newest", number)
            for replica in (one, two):
                assert replica.get(f"/weights?dataset=street&version={number}").json()["version"] == number
                assert replica.get("/weights").json()["version"] == number
                assert replica.get("/weights?version=newest").json()["version"] == number
                assert replica.get("/datasets/street/histogram").json()["version"] == number


def test_concurrent_reads_share_reads_of_the_catalog(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    reads = []
    real = snapshot.load

    def load(*args: object) -> snapshot.Snapshot:
        reads.append(args)
        return real(*args)  # type: ignore[arg-type]

    with ApiClient(build_app(home)) as client:
        monkeypatch.setattr(snapshot, "load", load)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: client.get("/weights").status_code, range(64)))
    assert answers == [200] * 64
    assert len(reads) < 64 + 20


@pytest.fixture
def remote(
    tmp_path: Path, postgresql_server: PostgresServer, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Home, Home, SilentProxy]]:
    """The same home over a direct connection to PostgreSQL and over a proxy, with one version."""
    monkeypatch.setattr(limits, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(snapshot, "PATIENCE_SECONDS", 0.4)
    direct = homes.resolve(str(tmp_path / "home"), postgresql)
    publish(direct, "street", label_maps(1), num_classes=4)
    with silent_proxy(str(postgresql_server.folder / ".s.PGSQL.5432")) as proxy:
        name = sa.make_url(postgresql).database
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
        yield direct, homes.resolve(str(tmp_path / "home"), url), proxy


def test_a_silent_catalog_is_reported_and_a_revoked_token_cannot_write(
    remote: tuple[Home, Home, SilentProxy],
) -> None:
    direct, home, proxy = remote
    catalog = Catalog.open(direct.database)
    token, secret = tokens.create(catalog, "write", "ci")
    headers = {"Authorization": f"Bearer {secret}"}
    with ApiClient(build_app(home, policy=Policy(writes=True))) as client:
        assert client.post("/jobs", json={"dataset": "street"}, headers=headers).status_code == 202
        proxy.silence(all_new=True)
        tokens.revoke(catalog, token.id)
        publish(direct, "street", label_maps(2), num_classes=4)
        old = client.get("/weights")
        assert (old.status_code, old.json()["version"]) == (200, 1)
        assert int(old.headers["age"]) >= 0
        assert "has not answered" in old.headers["warning"]
        assert "age" not in client.get("/weights?version=1").headers
        rejected = client.post("/jobs", json={"dataset": "street"}, headers=headers)
        assert (rejected.status_code, rejected.headers["retry-after"]) == (503, "1")
        assert client.get("/readyz").status_code == 503
        assert client.get("/readyz?for=reads").json()["catalog"] != "ok"
        proxy.restore()
        wait_for(lambda: "age" not in client.get("/weights").headers)
        assert client.get("/weights").json()["version"] == 2
        assert client.post("/jobs", json={"dataset": "street"}, headers=headers).status_code == 401
        assert client.get("/readyz").status_code == 200
    catalog.close()
