"""Fixtures that several files of tests/store share: an empty home on each database, its catalog, its API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statsvc.store import home as homes
from statsvc.store.versions.bucket import BucketLocation
from support.stores import StoredFiles

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.store.home import Home


@pytest.fixture
def home(tmp_path: Path, database: str) -> Home:
    return homes.resolve(str(tmp_path / "home"), database)


@pytest.fixture(params=["sqlite, folder", "postgresql, folder", "postgresql, bucket"])
def home_of_each_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home with each kind of catalog and version store."""
    folder = str(tmp_path / "home")
    database = request.getfixturevalue("postgresql") if "postgresql" in request.param else None
    store = str(request.getfixturevalue("bucket").store) if "bucket" in request.param else None
    return homes.resolve(folder, database, store)


@pytest.fixture
def stored_files_of_each_kind(request: pytest.FixtureRequest, home_of_each_kind: Home) -> StoredFiles:
    """The files or objects of that home's version store, accessed without statsvc."""
    boto = (
        request.getfixturevalue("bucket").boto
        if isinstance(home_of_each_kind.store, BucketLocation)
        else None
    )
    return StoredFiles(home_of_each_kind.store, boto)
