"""Fixtures of all tests: a clean environment, and an empty home directory with its catalog and API."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

import httpx2
import pytest

from statsvc.store import home as homes
from statsvc.store.catalog.catalog import Catalog
from support.browser import browser, downloads
from support.postgres import database, migrated_database, postgresql, postgresql_server
from support.scans import cluster, workspace
from support.stores import bucket, s3, stored_files

__all__ = [
    "browser",
    "bucket",
    "cluster",
    "database",
    "downloads",
    "migrated_database",
    "postgresql",
    "postgresql_server",
    "s3",
    "stored_files",
    "workspace",
]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.testclient import TestClient

    from statsvc.store.home import Home

HTTP_TIMEOUT = 60.0
"""Default timeout in seconds of the HTTP requests of tests: the 5 s of httpx2 fail under load."""

OUTAGES = pytest.StashKey[list[tuple[str, ...]]]()


def pytest_configure() -> None:
    """Raise the default timeout of httpx2. The client of statsvc always sets its own timeout."""
    # One object, which is the default of all functions and clients.
    timeout = inspect.signature(httpx2.get).parameters["timeout"].default
    timeout.connect = timeout.read = timeout.write = timeout.pool = HTTP_TIMEOUT


SLOW_MODULES = {
    *("test_api_freshness", "test_api_memory", "test_api_server", "test_generated_client", "test_limits"),
    *("test_schemathesis", "test_listing_faults"),
    *("test_datasets", "test_demo", "test_import", "test_json", "test_missing_extras", "test_prefetch"),
    *("test_scan", "test_serve", "test_terminal", "test_weights_command"),
    *(
        "test_calculate",
        "test_client_concurrent",
        "test_client_distributed",
        "test_client_outages",
        "test_local",
    ),
    *(
        "test_distributed_samplers",
        "test_lightning",
        "test_monitor",
        "test_transformers",
        "test_losses_checkpoints",
        "test_losses_peers",
        "test_losses_torch",
    ),
    *("test_jobs", "test_leases", "test_migrations", "test_model", "test_old_homes", "test_publication"),
    *("test_rebuilding", "test_retention", "test_store_faults", "test_triggers"),
    *("test_array_rows", "test_changed_paths", "test_kernels", "test_moved_clock", "test_recompute"),
    "test_recompute_faults",
    *(
        "test_remote",
        "test_chaos",
        "test_cluster",
        "test_exchange",
        "test_imports",
        "test_isolation",
        "test_stopping",
        "test_page",
        "test_page_differences",
        "test_page_outages",
        "test_proxy",
    ),
}
"""Test modules that start processes or servers, or wait for them; `make test-fast` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow modules."""
    for item in items:
        if item.path.stem in SLOW_MODULES:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the caller's STATSVC_* and proxy variables, and put state and caches into a temporary folder."""
    for name in list(os.environ):
        if name.upper().startswith("STATSVC_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STATSVC_HOME", str(tmp_path / "statsvc-home"))
    monkeypatch.setenv("STATSVC_CACHE", str(tmp_path / "statsvc-cache"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home directory."""
    return homes.resolve(str(tmp_path / "home"))


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    """The catalog of `home`."""
    opened = Catalog.open(home.database)
    yield opened
    opened.close()


@pytest.fixture
def client(home: Home) -> Iterator[TestClient]:
    """A client of an application in this process that serves `home`."""
    from starlette.testclient import TestClient

    from statsvc.api.app import build_app

    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def outage_table(request: pytest.FixtureRequest) -> list[tuple[str, ...]]:
    """Rows of a table that pytest prints after the tests: what the client does during each kind of outage."""
    return request.config.stash.setdefault(OUTAGES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of outages if their tests ran."""
    if rows := config.stash.get(OUTAGES, []):
        rows = [("the server", "attempts", "took", "without a cached entry", "with one"), *rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        terminalreporter.section("outages")
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())
