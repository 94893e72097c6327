"""Which samples are counted again after a batch has failed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
from distributed import KilledWorker

from statsvc_workers.cluster.batches import BatchCutter, _Scan
from statsvc_workers.cluster.preflight import PreflightFailed
from statsvc_workers.cluster.tasks import CountOptions

if TYPE_CHECKING:
    from statsvc_workers.cluster.cluster import Cluster

PATHS = ["a.png", "b.png"]


class DisconnectedCluster:
    """A cluster one of whose workers disconnects while all of them are checked."""

    def prepare(self, *_arguments: Any) -> None:
        raise ConnectionError("a worker disconnected")


def scan_of(cluster: object) -> _Scan:
    options = CountOptions("/labels", 1 << 20, "cpu")
    return _Scan(
        cast("Cluster", cluster), options, BatchCutter([], [], 1), "a.png", "key", lambda: None, print
    )


@pytest.mark.parametrize("error", [RuntimeError("no module named statsvc"), PreflightFailed("no statsvc")])
def test_no_sample_is_lost_if_a_worker_disconnects_while_a_failed_batch_is_handled(error: Exception) -> None:
    scan = scan_of(DisconnectedCluster())
    with pytest.raises(ConnectionError):
        scan._handle_error([*PATHS], error, was_alone=False)
    again = [path for batch in (*scan.waiting, *scan.suspects) for path in batch]
    assert sorted(map(str, again)) == PATHS


def test_the_samples_of_a_batch_whose_worker_was_killed_run_one_by_one() -> None:
    scan = scan_of(DisconnectedCluster())
    killed = KilledWorker("count-key-0", None, 3)
    assert scan._handle_error([*PATHS], killed, was_alone=False) is None
    assert scan.suspects == [["a.png"], ["b.png"]]


@pytest.mark.parametrize(("size", "first", "largest_last"), [(10, 16, 16), (3 << 20, 5, 1)])
def test_large_files_are_divided_among_the_workers_from_the_first_batch_on(
    size: int, first: int, largest_last: int
) -> None:
    cutter = BatchCutter([f"{number}.nii" for number in range(20)], [size] * 20, 2)
    batches = []
    while batch := cutter.cut():
        batches.append(batch)
    assert len(batches[0]) == first
    assert len(batches[-1]) <= largest_last
    assert [path for batch in batches for path in batch] == [f"{number}.nii" for number in range(20)]


def test_dask_and_its_event_loop_print_no_errors() -> None:
    program = (
        "import logging\n"
        "from statsvc_workers.cluster.dask_settings import quiet_dask\n"
        "quiet_dask()\n"
        "import distributed\n"
        "for name in ('distributed.worker', 'asyncio', 'tornado.application'):\n"
        "    logging.getLogger(name).error('Exception in callback')\n"
        "print('printed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("printed\n", "")
