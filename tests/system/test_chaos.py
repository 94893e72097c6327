"""The short form of `make chaos`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.chaos import chaos

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_is_lost_whatever_process_is_killed_during_jobs(tmp_path: Path) -> None:
    tally = chaos(tmp_path, kills=8, seed=3)
    print(tally)
    assert tally.kills.total() == 8
    assert tally.ended.total() == len(tally.accepted)
    assert tally.versions >= 2
