"""Fixtures that several files of tests/store share: an empty home on each database, its catalog, its API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.store import home as homes
from statsvc.store.catalog.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.home import Home


@pytest.fixture
def home(tmp_path: Path, database: str) -> Home:
    return homes.resolve(str(tmp_path / "home"), database)


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    opened = Catalog.open(home.database)
    yield opened
    opened.close()


@pytest.fixture
def client(home: Home) -> Iterator[TestClient]:
    with TestClient(build_app(home), base_url="http://127.0.0.1") as client:
        yield client
