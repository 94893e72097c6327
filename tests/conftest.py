"""What every test gets: no setting from outside, state and caches in a folder of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from postgres import database, migrated, postgresql, postgresql_server

__all__ = ["database", "migrated", "postgresql", "postgresql_server"]

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forget the caller's STATSVC_* and proxies, and keep state and caches out of the caller's folders."""
    for name in list(os.environ):
        if name.upper().startswith("STATSVC_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STATSVC_HOME", str(tmp_path / "statsvc-home"))
    monkeypatch.setenv("STATSVC_CACHE", str(tmp_path / "statsvc-cache"))
    monkeypatch.setenv("COLUMNS", "80")
