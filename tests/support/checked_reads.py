"""Clients that read weights all the time, and compare every answer with `np.bincount` of the label maps."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLASSES = 5
READERS = 3
QUERY = {"method": "inverse_freq", "normalize": "none"}
"""Weights N / (C n), for N pixels of C classes, n of them of the class."""


class Labels:
    """The label maps of one dataset, and the weights that each version must have.

    weights  {version: N / (C n) of each class, with N and n from np.bincount}
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.weights: dict[int, list[float]] = {}
        self._random = np.random.default_rng(seed)
        folder.mkdir()
        for _ in range(30):
            self._add()
        self._expect_next()

    def change(self) -> int:
        """Add a label map and replace another; return the version that the next scan publishes."""
        self._add()
        self._write(self.folder / "000.png")
        return self._expect_next()

    def _add(self) -> None:
        self._write(self.folder / f"{len(list(self.folder.iterdir())):03}.png")

    def _write(self, path: Path) -> None:
        Image.fromarray(self._random.integers(0, CLASSES, (64, 96), np.uint8)).save(path)

    def _expect_next(self) -> int:
        pixels = np.zeros(CLASSES, np.int64)
        for path in self.folder.iterdir():
            pixels += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=CLASSES)
        version = len(self.weights) + 1
        self.weights[version] = (pixels.sum() / (CLASSES * pixels)).tolist()
        return version


@dataclass
class Reads:
    """What readers have received.

    answers     number of responses by release and status: `old 200`
    wrong       descriptions of answers that differ from NumPy, or of failed requests
    went_back   number of answers, by release, with an older version than an answer that had arrived before
                the request was sent
    newest      newest version that has arrived, by dataset
    """

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    went_back: Counter[str] = field(default_factory=Counter)
    newest: Counter[str] = field(default_factory=Counter)

    def read(self, client: httpx2.Client, name: str, labels: Labels, version: int | None) -> None:
        """Request the weights of the current version, or of a version, and check the answer."""
        query: dict[str, Any] = QUERY | {"dataset": name}
        known = self.newest[name]
        try:
            answer = client.get("/weights", params=query | ({} if version is None else {"version": version}))
        except httpx2.TransportError as error:
            self.answers[type(error).__name__] += 1
            self.wrong.append(f"{type(error).__name__}: {error}")
            return
        # Releases before request ids are the old ones.
        release = "new" if "x-request-id" in answer.headers else "old"
        self.answers[f"{release} {answer.status_code}"] += 1
        if answer.status_code != 200:
            self.wrong.append(f"{answer.status_code}: {answer.text[:300]}")
            return
        body = answer.json()
        if version is None:
            self.went_back[release] += body["version"] < known
            self.newest[name] = max(known, self.newest[name], body["version"])
        elif body["version"] != version:
            self.wrong.append(f"version {body['version']} instead of {version}")
        expected = labels.weights.get(body["version"])
        if expected is None or not np.allclose(body["weights"], expected, rtol=1e-12, atol=0):
            self.wrong.append(f"version {body['version']}: {body['weights']} instead of {expected}")


@contextlib.contextmanager
def reading(url: str, labels: dict[str, Labels]) -> Iterator[Reads]:
    """Read through the proxy from several threads until the block ends: current versions, and version 1."""
    reads, stop = Reads(), threading.Event()

    def loop(number: int) -> None:
        with httpx2.Client(base_url=url, timeout=30) as client:
            while not stop.wait(0.02):
                for name, each in labels.items():
                    reads.read(client, name, each, 1 if number == 0 else None)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield reads
    finally:
        stop.set()
        for thread in threads:
            thread.join()
