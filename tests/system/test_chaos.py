"""The short form of `make chaos`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.chaos.forms import FORMS
from support.chaos.run import chaos

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 5.0
"""Seconds: this leaves out the faults that outlast a lease."""


@pytest.mark.timeout(900)  # on a machine that may run other tests too
@pytest.mark.parametrize("form", sorted(FORMS))
def test_nothing_is_lost_or_wrong_whatever_breaks_while_clients_read_and_write(
    tmp_path: Path, form: str
) -> None:
    tally = chaos(tmp_path, form, faults=8, seed=3, longest=LONGEST)
    print(tally)
    assert tally.faults.total() == 8
    assert min(tally.reads.values()) > 50
    assert tally.ended.total() == tally.jobs
    assert tally.ended["succeeded"] >= 5
    assert tally.versions >= 6
    assert tally.repeated >= 1
