"""sync=True between real processes: four ranks started by torchrun, with gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import statsvc
from statsvc.client.client import Client
from statsvc.store import home as homes
from support.outages import front_of
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = 4
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
Results = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("ranks") / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as url:
        yield url


@pytest.fixture(scope="module")
def run(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Counter[str]]:
    """What each rank got, and how often the server was asked for what."""
    out = tmp_path_factory.mktemp("out")
    script = str(Path(__file__).parents[1] / "support" / "ranks.py")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STATSVC_")}
    with front_of(upstream) as front:
        subprocess.run(
            [*TORCHRUN, script, front.url, str(out)],
            env=clean | {"OMP_NUM_THREADS": "1", "STATSVC_CACHE": str(out / "cache")},
            check=True,
            timeout=120,
        )
        return [json.loads((out / f"{rank}.json").read_text()) for rank in range(RANKS)], Counter(front.asked)


def test_one_rank_asks_and_all_have_the_same_weights(
    run: tuple[Results, Counter[str]], upstream: str
) -> None:
    ranks, asked = run
    expected = statsvc.class_weights(upstream, dataset="street", method="enet").tolist()
    assert [rank["together"]["weights"] for rank in ranks] == [expected] * RANKS
    assert asked["/weights?dataset=street&method=enet"] == 1
    by_number = Client(upstream).weights("street", version=1).to_list()
    assert [rank["client"]["weights"] for rank in ranks] == [by_number] * RANKS
    assert asked["/weights?dataset=street&version=1"] == 1


@pytest.mark.parametrize(
    ("step", "error", "says"),
    [
        ("unknown", "NotFound", "nowhere"),
        ("names", "InvalidParameter", "the dataset has 4 classes, not 1"),
        ("no url", "InvalidParameter", "STATSVC_URL"),
        ("odd", "StatsvcError", "Odd: 1 and 2"),
    ],
)
def test_an_error_on_rank_0_is_raised_on_all(
    run: tuple[Results, Counter[str]], step: str, error: str, says: str
) -> None:
    got = [rank[step] for rank in run[0]]
    assert [one["error"] for one in got] == [error] * RANKS
    assert says in got[0]["says"]
    assert len({one["says"] for one in got}) == 1


def test_only_rank_0_needs_the_url_and_the_checkpoint(
    run: tuple[Results, Counter[str]], upstream: str
) -> None:
    expected = {
        step: statsvc.class_weights(upstream, dataset="street", method=method).tolist()
        for step, method in (("alone", "linear"), ("pinned", "inverse_freq"))
    }
    for rank in run[0]:
        assert {step: rank[step]["weights"] for step in expected} == expected


def test_without_sync_each_rank_asks_and_logs_the_digest(
    run: tuple[Results, Counter[str]], upstream: str
) -> None:
    ranks, asked = run
    assert asked["/weights?alpha=0.5&dataset=street&method=power"] == RANKS
    digest = Client(upstream).weights("street", method="power", alpha=0.5).digest
    for number, rank in enumerate(ranks):
        assert rank["apart"]["log"] == [
            f"rank {number}: street version 1 (power), weights with digest {digest}"
        ]


def test_before_the_process_group_is_there_each_asks_with_a_warning(
    run: tuple[Results, Counter[str]],
) -> None:
    ranks, asked = run
    assert asked["/weights?dataset=street&method=uniform"] == RANKS
    for rank in ranks:
        assert rank["before"]["weights"] == [1.0] * 4
        assert (
            "before torch.distributed.init_process_group: each of the 4 processes" in rank["before"]["log"][0]
        )


def test_in_one_process_sync_changes_nothing(upstream: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = statsvc.class_weights(upstream, dataset="street")
    assert torch.equal(statsvc.class_weights(upstream, dataset="street", sync=True), plain)
    assert caplog.records == []
