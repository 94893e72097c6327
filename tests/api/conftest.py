"""Fixtures of the tests of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statsvc.api.app import build_app
from statsvc.store import home as homes
from support.contract import ApiClient
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.store.home import Home


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home directory with version 1 of the dataset `street`. Tests may add other datasets to it."""
    home = homes.resolve(str(tmp_path_factory.mktemp("home")))
    publish(home, "street", label_maps(), num_classes=4)
    return home


@pytest.fixture(scope="module")
def shared_client(shared_home: Home) -> Iterator[ApiClient]:
    """A client of an application that serves `shared_home`."""
    with ApiClient(build_app(shared_home)) as client:
        yield client
