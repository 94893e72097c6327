"""The short form of `make chaos`, and tests that its checks find errors."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from support.chaos.changing_folder import ChangingFolder
from support.chaos.checks import check_order, check_rows
from support.chaos.faults import Fault, schedule
from support.chaos.forms import FORMS
from support.chaos.record import Record, Sighting
from support.chaos.resources import MEBIBYTE, Resources, Usage
from support.chaos.run import chaos
from support.chaos.tally import Tally

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


def test_a_schedule_follows_from_its_seed_and_uses_every_fault_before_any_again() -> None:
    faults = [
        Fault(kind, target, lambda: None, lambda: None) for kind in ("kill", "stop") for target in "abcdef"
    ]
    planned = list(schedule(faults, 24, seed=5))
    assert planned == list(schedule(faults, 24, seed=5))
    assert planned != list(schedule(faults, 24, seed=6))
    names = [fault.name for each in planned for fault, _ in each.faults]
    assert set(names[:12]) == set(names[12:]) == {fault.name for fault in faults}
    pairs = [each.faults for each in planned if len(each.faults) == 2]
    assert pairs
    assert all(first.target != second.target for (first, _), (second, _) in pairs)


@pytest.mark.parametrize(
    ("sighting", "is_wrong"),
    [
        (Sighting("b", "north", 2, sent=2.1, received=2.2), False),
        (Sighting("b", "north", 1, sent=2.1, received=2.2), True),
        (Sighting("b", "north", 1, sent=1.9, received=2.2), False),  # sent before the other answer arrived
        (Sighting("b", "north", 1, sent=7.9, received=8.0, age=5), False),
        (Sighting("b", "north", 1, sent=8.1, received=8.2, age=5), True),
        (Sighting(None, "north", 1, sent=2.1, received=2.2), False),  # a job published it
    ],
)
def test_an_answer_older_than_one_seen_before_is_found(sighting: Sighting, is_wrong: bool) -> None:
    record = Record(sightings=[Sighting("a", "north", 2, sent=1.0, received=2.0), sighting])
    check_order(record, Tally("cluster", 0))
    assert len(record.violations) == is_wrong


@pytest.mark.parametrize("damage", ["a count", "a path", "an old content"])
def test_a_row_that_differs_from_its_file_is_found(tmp_path: Path, damage: str) -> None:
    folder = ChangingFolder(tmp_path / "labels", ".png", seed=1)
    old = {name: dict(folder.counts[content]) for name, content in folder.contents().items() if content}
    changed = next(name for name in folder.change() if name in old and name in folder.names())
    rows = {name: dict(folder.counts[content]) for name, content in folder.contents().items() if content}
    now = folder.history[changed][-1].since + 1.0
    check_rows("version 1", rows, folder, (now, now), None, {})
    if damage == "a count":
        rows[changed][random.Random(2).choice(list(rows[changed]))] += 1
    elif damage == "a path":
        del rows[changed]
    else:
        rows[changed] = old[changed]
        check_rows("version 1", rows, folder, (now, now), set(), rows)  # as in the version before
    with pytest.raises(AssertionError, match=changed):
        check_rows("version 1", rows, folder, (now, now), None, {})


def test_the_longest_time_without_an_answer_is_that_of_the_faults_during_it() -> None:
    tally = Tally("cluster", 0, periods=[("kill", 1.0, 2.0), ("stop", 3.05, 4.0), ("kill", 9.0, 9.5)])
    tally.measure_gaps({"proxy": [0.5, 3.0, 3.1, 9.0, 9.7]})
    assert tally.gaps == {"proxy": pytest.approx({"kill": 2.5, "stop": 5.9})}


@pytest.mark.parametrize(
    ("after", "is_leak"),
    [
        (Usage(0, 240 * MEBIBYTE, 180), False),
        (Usage(0, 260 * MEBIBYTE, 100), True),
        (Usage(0, 100 * MEBIBYTE, 200), True),
    ],
)
def test_a_role_that_uses_much_more_memory_or_files_is_found(after: Usage, is_leak: bool) -> None:
    resources = Resources({"api1": Usage(0, 100 * MEBIBYTE, 100)}, last={"api1": after})
    assert bool(resources.leaks()) == is_leak
