"""Label maps and homes that several tests of the command line read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statsvc.local.demo import make_demo
from support.commands import scan_json
from support.expected import counted_by_pillow
from support.label_maps import write_huge_arrays
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 label maps in folders train and val, old enough to be scanned without a wait. Do not change them."""
    folder = make_demo(tmp_path_factory.mktemp("labels") / "street", images=24, size=(128, 64))
    wait_until_stable(folder)
    return folder


@pytest.fixture(scope="session")
def street_home(street: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The label maps of `street`, and a home in which version 1 of the dataset `street` is published."""
    home = tmp_path_factory.mktemp("street-home")
    scan_json(street, "--name", "street", "--home", home)
    return street, home


@pytest.fixture
def endless(tmp_path: Path) -> tuple[Path, Path, dict[int, int]]:
    """100 label maps, a folder among them that takes longer to count than any test, and the maps' counts."""
    labels = make_demo(tmp_path / "labels", images=100, size=(256, 128))
    expected = counted_by_pillow(labels)
    wait_until_stable(labels)
    return labels, write_huge_arrays(labels), {raw_id: n for raw_id, n in expected.items() if raw_id != 255}
