"""Clients that read: current and pinned weights and histograms, and the samples of new versions."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from support.chaos.http import send
from support.chaos.record import Sighting

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from support.chaos.record import Record

PAUSE = 0.1
WEIGHTS = "weights?method=sqrt_inv_freq&dataset={}"
PATHS = {"weights": WEIGHTS, "histograms": "datasets/{}/histogram?num_classes=7"}


def read(
    name: str, url: str, datasets: Sequence[str], record: Record, stop: threading.Event, seed: int
) -> None:
    """Read from one URL until `stop`: the current version, or one that was current before."""
    rng = random.Random(seed)
    record.answered[name] = [time.monotonic()]
    while not stop.wait(PAUSE):
        dataset, kind = rng.choice(datasets), rng.choice(list(PATHS))
        seen = record.seen_versions(dataset)
        pinned = rng.choice(seen) if seen and rng.random() < 0.3 else None
        try:
            _read(name, url, dataset, kind, pinned, record)
        except OSError as error:
            record.no_answer(error)


def _read(name: str, url: str, dataset: str, kind: str, pinned: int | None, record: Record) -> None:
    path = PATHS[kind].format(dataset) + ("" if pinned is None else f"&version={pinned}")
    sent = time.monotonic()
    response = send(f"{url}/{path}")
    received = time.monotonic()
    if not record.is_expected(f"GET {path} of {name}", response, 200):
        return
    record.answered[name].append(received)
    version = int(response.json()["version"])
    record.compare(getattr(record, kind), (dataset, version), (response.headers["ETag"], response.body))
    age = response.headers["Age"]
    if pinned is None:
        record.see(Sighting(name, dataset, version, sent, received, None if age is None else int(age)))
    elif version != pinned:
        record.violate(f"GET {path} of {name}: version {version}")


def read_samples(
    urls: Sequence[str], datasets: Sequence[str], record: Record, stop: threading.Event, seed: int
) -> None:
    """Read the samples of every version that a reader has seen, before gc removes them."""
    rng = random.Random(seed)
    while not stop.wait(4 * PAUSE):
        missing = [
            (dataset, number)
            for dataset in datasets
            for number in record.seen_versions(dataset)
            if (dataset, number) not in record.samples
        ]
        if not missing:
            continue
        key = rng.choice(missing)
        try:
            samples = samples_of(rng.choice(urls), key, record)
        except OSError as error:
            record.no_answer(error)
        else:
            if samples is not None:
                record.samples[key] = samples


def samples_of(url: str, key: tuple[str, int], record: Record) -> dict[str, dict[int, int] | None] | None:
    """Return the counts of each sample of a version by path; None if the server cannot return them now.

    Nothing if the rows of the version were removed.
    """
    dataset, number = key
    path = f"datasets/{dataset}/samples?version={number}&limit=1000"
    response = send(f"{url}/{path}")
    if not record.is_expected(f"GET {path}", response, 200, 422):
        return None
    if response.status == 422:
        return {}
    page = response.json()
    assert page["next"] is None
    return {
        row["path"]: {int(i): n for i, n in row["counts"].items()} if row["status"] == "counted" else None
        for row in page["samples"]
    }
