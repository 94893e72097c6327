"""Answers that read rows: they hold up no other answers, and the memory that they need is shared."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from statsvc.api.app import build_app
from statsvc.api.state import service
from statsvc.dataset.splits import detect
from statsvc.store.versions.version import Version
from support.contract import ApiClient
from support.publishing import label_maps, publish
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from statsvc.dataset.table import Block
    from statsvc.store.home import Home


def test_answers_from_totals_never_wait_for_the_rows_of_a_version(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home, "big", label_maps(images=40), num_classes=4, splits=detect(label_maps(images=40)))
    publish(home, "small", label_maps(1), num_classes=4, splits=detect(label_maps(1)))
    reading, released = threading.Event(), threading.Event()
    real = Version.blocks

    def slow_blocks(self: Version) -> Iterator[Block]:
        blocks = real(self)
        if self.dataset == "big" and self.has_rows:
            yield next(blocks)  # raises where rows must not be read
            reading.set()
            assert released.wait(60)
        yield from blocks

    monkeypatch.setattr(Version, "blocks", slow_blocks)
    with ApiClient(build_app(home)) as client, ThreadPoolExecutor(12) as pool:
        questions = [
            f"/datasets/big/histogram?split={split}&ignore_index={ignored}"
            for split in ("train", "val")
            for ignored in range(5)
        ]
        slow = [pool.submit(client.get, question) for question in questions]
        assert reading.wait(60)
        for query in (
            "dataset=small",
            "dataset=small&split=train",
            "dataset=big",
            "dataset=big:0.5,small:0.5",
        ):
            assert client.get(f"/weights?{query}").status_code == 200, query
        assert not any(answer.done() for answer in slow)
        shared = client.app.state.service  # type: ignore[attr-defined]
        wait_for(lambda: len(shared._slow) == len(questions))
        monkeypatch.setattr(service, "MOST_WAITING", len(questions))
        rejected = client.get("/weights?dataset=big&split=val&method=uniform")
        assert (rejected.status_code, rejected.json()["type"]) == (503, "/problems/busy")
        released.set()
        assert {answer.result().status_code for answer in slow} == {200}


def test_versions_with_the_same_arrays_share_them_in_memory(home: Home) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    with ApiClient(build_app(home)) as client:
        for classes in range(5, 10):
            assert client.patch("/datasets/street", json={"num_classes": classes}).status_code == 200
        for number in range(1, 7):
            assert client.get(f"/datasets/street/samples?version={number}").status_code == 200
        shared = client.app.state.service  # type: ignore[attr-defined]
        tables = [table.stored.array("path") for table, _ in shared._tables._values.values()]
        assert len(tables) == 6
        assert len({id(array) for array in tables}) == 1


def test_versions_share_the_memory_of_histograms_but_not_the_histograms(home: Home) -> None:
    samples = label_maps(images=6)
    publish(home, "street", samples, num_classes=4)
    paths = sorted(samples)
    with ApiClient(build_app(home)) as client:
        for count in (1, 2, 3):
            split = {"part": {"paths": paths[:count]}}
            assert client.patch("/datasets/street", json={"splits": split}).status_code == 200
        for count in (3, 1, 2):
            answer = client.get(
                f"/datasets/street/histogram?version={count + 1}&split=part&ignore_index=none"
            )
            assert answer.json()["images"] == count
        shared = client.app.state.service  # type: ignore[attr-defined]
        tables = [table for table, _ in shared._tables._values.values()]
        assert len(tables) == 3
        assert all(table._histograms is shared._histograms for table in tables)
