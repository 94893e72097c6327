"""What every test gets: no setting from outside, state and caches in a folder of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.postgres import database, migrated_database, postgresql, postgresql_server
from support.scans import cluster, workspace
from support.stores import bucket, s3, stored_files

__all__ = [
    "bucket",
    "cluster",
    "database",
    "migrated_database",
    "postgresql",
    "postgresql_server",
    "s3",
    "stored_files",
    "workspace",
]

if TYPE_CHECKING:
    from pathlib import Path

OUTAGES = pytest.StashKey[list[tuple[str, ...]]]()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forget the caller's STATSVC_* and proxies, and keep state and caches out of the caller's folders."""
    for name in list(os.environ):
        if name.upper().startswith("STATSVC_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STATSVC_HOME", str(tmp_path / "statsvc-home"))
    monkeypatch.setenv("STATSVC_CACHE", str(tmp_path / "statsvc-cache"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def outage_table(request: pytest.FixtureRequest) -> list[tuple[str, ...]]:
    """Rows of the table of outages, which ends the tests' output: what happens, and what the client does."""
    return request.config.stash.setdefault(OUTAGES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of outages where its tests have run."""
    if rows := config.stash.get(OUTAGES, []):
        rows = [("the server", "attempts", "took", "without a cached entry", "with one"), *rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        terminalreporter.section("outages")
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())
