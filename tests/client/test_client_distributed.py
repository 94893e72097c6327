"""Requests with sync=True from four real processes, which torchrun starts with gloo."""

from __future__ import annotations

import json
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
from support.torchrun import run_ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = 4
Results = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("ranks") / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as url:
        yield url


@pytest.fixture(scope="module")
def run(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Counter[str]]:
    """The results of each rank, and the number of requests of each path."""
    out = tmp_path_factory.mktemp("out")
    script = Path(__file__).parents[1] / "support" / "ranks.py"
    with front_of(upstream) as front, pytest.MonkeyPatch.context() as environment:
        environment.delenv("STATSVC_URL", raising=False)
        environment.setenv("STATSVC_CACHE", str(out / "cache"))
        run_ranks(script, front.url, str(out), ranks=RANKS)
        results = [json.loads((out / f"{rank}.json").read_text()) for rank in range(RANKS)]
        return results, Counter(front.requests)


def test_one_rank_sends_the_request_and_all_ranks_get_the_weights(
    run: tuple[Results, Counter[str]], upstream: str
) -> None:
    ranks, requests = run
    expected = statsvc.class_weights(upstream, dataset="street", method="enet").tolist()
    assert [rank["class_weights"]["weights"] for rank in ranks] == [expected] * RANKS
    assert requests["/weights?dataset=street&method=enet"] == 1
    by_number = Client(upstream).weights("street", version=1).to_list()
    assert [rank["client.weights"]["weights"] for rank in ranks] == [by_number] * RANKS
    assert requests["/weights?dataset=street&version=1"] == 1


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ("unknown", "NotFound", "nowhere"),
        ("names", "InvalidParameter", "the dataset has 4 classes, not 1"),
        ("no url", "InvalidParameter", "STATSVC_URL"),
        ("unpicklable", "StatsvcError", "Unpicklable: 1 and 2"),
    ],
)
def test_an_error_on_rank_0_is_raised_on_every_rank(
    run: tuple[Results, Counter[str]], step: str, error: str, message: str
) -> None:
    results = [rank[step] for rank in run[0]]
    assert [result["error"] for result in results] == [error] * RANKS
    assert message in results[0]["message"]
    assert len({result["message"] for result in results}) == 1


def test_only_rank_0_needs_the_url_and_the_checkpoint(
    run: tuple[Results, Counter[str]], upstream: str
) -> None:
    expected = {
        step: statsvc.class_weights(upstream, dataset="street", method=method).tolist()
        for step, method in (("url on rank 0", "linear"), ("record on rank 0", "inverse_freq"))
    }
    for rank in run[0]:
        assert {step: rank[step]["weights"] for step in expected} == expected


def test_without_sync_each_rank_sends_a_request_and_logs_the_digest(
    run: tuple[Results, Counter[str]], upstream: str
) -> None:
    ranks, requests = run
    assert requests["/weights?alpha=0.5&dataset=street&method=power"] == RANKS
    digest = Client(upstream).weights("street", method="power", alpha=0.5).digest
    for number, rank in enumerate(ranks):
        assert rank["without sync"]["log"] == [
            f"rank {number}: street version 1 (power), weights with digest {digest}"
        ]


def test_sync_without_a_process_group_warns_and_each_rank_sends_a_request(
    run: tuple[Results, Counter[str]],
) -> None:
    ranks, requests = run
    assert requests["/weights?dataset=street&method=uniform"] == RANKS
    for rank in ranks:
        result = rank["no process group"]
        assert result["weights"] == [1.0] * 4
        assert "before torch.distributed.init_process_group, so each of the 4 processes" in result["log"][0]


def test_sync_has_no_effect_in_a_single_process(upstream: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = statsvc.class_weights(upstream, dataset="street")
    assert torch.equal(statsvc.class_weights(upstream, dataset="street", sync=True), expected)
    assert caplog.records == []
