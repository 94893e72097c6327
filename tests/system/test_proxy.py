"""API servers behind HAProxy with deploy/haproxy.cfg, while the catalog is away or has a newer schema."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psycopg
import pytest

from statsvc.store import home as homes
from statsvc.store.catalog.engine import SCHEMA, upgrade_url
from support.postgres import postgres_server
from support.publishing import label_maps, publish
from support.servers import free_port, responds, serving
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
NO_SERVER = "backend 'apis' has no server available"
NEWER = "9999"
"""A schema of a future release."""


@contextmanager
def proxy(api1: str, api2: str, log: Path) -> Iterator[str]:
    """Run HAProxy in front of two servers; yield its URL when it answers."""
    port = free_port()
    addresses = {"BIND": f"127.0.0.1:{port}", "API1": api1[7:], "API2": api2[7:]}
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["haproxy", "-f", str(CONFIGURATION), "-db"],
            env={"PATH": f"{os.environ['PATH']}:/usr/sbin", **addresses},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            wait_for(lambda: responds(f"http://127.0.0.1:{port}/readyz"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def read(url: str, answers: int = 20) -> list[httpx2.Response]:
    """Read the current weights several times, from both servers; every answer must have status 200."""
    responses = [httpx2.get(f"{url}/weights?dataset=street") for _ in range(answers)]
    assert [response.status_code for response in responses] == [200] * answers
    assert {response.json()["version"] for response in responses} == {1}
    return responses


def test_reads_go_on_while_postgresql_is_away(tmp_path: Path) -> None:
    log = tmp_path / "proxy.log"
    with postgres_server() as postgres:
        home = homes.resolve(str(tmp_path / "home"), postgres.url(postgres.database()))
        upgrade_url(home.database)
        publish(home, "street", label_maps(), num_classes=4)
        with serving(home) as one, serving(home) as two, proxy(one, two, log) as url:
            read(url)
            postgres.kill()
            # Before the health checks notice it, and after that.
            wait_for(lambda: read(url) and NO_SERVER in log.read_text())
            assert all(int(response.headers["age"]) >= 0 for response in read(url))
            rejected = httpx2.post(f"{url}/jobs", json={"dataset": "street"})
            assert (rejected.status_code, rejected.json()["type"]) == (503, "/problems/catalog-unavailable")
            postgres.start()
            wait_for(lambda: responds(f"{url}/readyz"))
            wait_for(lambda: all("age" not in response.headers for response in read(url)))
            assert httpx2.post(f"{url}/jobs", json={"dataset": "street"}).status_code == 202


@pytest.mark.parametrize("is_compatible", [True, False], ids=["adds", "changes"])
def test_reads_go_on_while_the_schema_is_newer(is_compatible: bool, postgresql: str, tmp_path: Path) -> None:
    log = tmp_path / "proxy.log"
    home = homes.resolve(str(tmp_path / "home"), postgresql)
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as one, serving(home) as two, proxy(one, two, log) as url:
        with psycopg.connect(postgresql.replace("+psycopg", "")) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", [NEWER])
            compatible_from = SCHEMA if is_compatible else NEWER
            connection.execute(
                "UPDATE schema_versions SET revision = %s, compatible_from = %s", [NEWER, compatible_from]
            )
        if is_compatible:
            read(url, 100)
            assert responds(f"{one}/readyz")
            assert responds(f"{two}/readyz")
        else:
            wait_for(lambda: read(url) and NO_SERVER in log.read_text())
            read(url)
            unready = httpx2.get(f"{url}/readyz")
            assert (unready.status_code, NEWER in unready.json()["detail"]) == (503, True)
        submitted = httpx2.post(f"{url}/jobs", json={"dataset": "street"})
        if is_compatible:
            # A newer runner can execute it: what a new schema adds is empty in jobs of an earlier release.
            assert submitted.status_code == 202
        else:
            assert (submitted.status_code, NEWER in submitted.json()["detail"]) == (503, True)
