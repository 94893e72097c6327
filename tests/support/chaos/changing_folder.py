"""A folder of label maps that changes, and what each path contained at which time."""

from __future__ import annotations

import io
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FILE_COUNT = 40
SHAPE = (64, 96)
CLASSES = 7


@dataclass
class ContentPeriod:
    """The period in which a path had some content, in seconds since 1970.

    content  xxh3 digest of the file; None: there was no file
    """

    content: int | None
    since: float
    until: float = float("inf")


class ChangingFolder:
    """A folder of label maps that changes. Records the content of every path over time.

    suffix   format of the files: ".png" or ".npy"
    shrinks  whether files are removed, too
    counts   {digest: {class id: pixels}} of every content
    history  {path: periods}, in time order
    """

    def __init__(self, path: Path, suffix: str, seed: int, *, shrinks: bool = True) -> None:
        self.path = path
        self.suffix = suffix
        self.shrinks = shrinks
        self.counts: dict[int, dict[int, int]] = {}
        self.history: dict[str, list[ContentPeriod]] = {}
        self._random = random.Random(seed)
        path.mkdir(parents=True)
        for number in range(FILE_COUNT):
            self._write(f"{number:03}{suffix}")

    def change(self) -> list[str]:
        """Replace three files, then add or remove one. Return the paths of these files."""
        names = self.names()
        changed = self._random.sample(names, 3)
        for name in changed:
            self._write(name)
        if self._random.random() < 0.5:
            changed.append(f"{len(self.history):03}{self.suffix}")
            self._write(changed[-1])
        elif self.shrinks and len(names) > FILE_COUNT // 2:
            changed.append(self._random.choice(names))
            since = time.time()
            (self.path / changed[-1]).unlink()
            self._record(changed[-1], None, since)
        return changed

    def names(self) -> list[str]:
        """Return the paths of the current files, in path order."""
        return sorted(name for name, periods in self.history.items() if periods[-1].content is not None)

    def contents(self) -> dict[str, int | None]:
        """Return the digest of each current file."""
        return {name: self.history[name][-1].content for name in self.names()}

    def had(self, name: str, content: int | None, begin: float, end: float) -> bool:
        """Whether a path had a content at some time between `begin` and `end`."""
        return any(period.content == content for period in self._periods(name, begin, end))

    def had_counts(self, name: str, counts: Mapping[int, int], begin: float, end: float) -> bool:
        """Whether a path had a content with these counts at some time between `begin` and `end`."""
        contents = [period.content for period in self._periods(name, begin, end)]
        return any(content is not None and self.counts[content] == counts for content in contents)

    def _periods(self, name: str, begin: float, end: float) -> list[ContentPeriod]:
        periods = self.history.get(name, [ContentPeriod(None, 0.0)])
        return [period for period in periods if period.since <= end and period.until >= begin]

    def _write(self, name: str) -> None:
        rng = np.random.default_rng(self._random.getrandbits(32))
        labels = rng.choice(CLASSES, SHAPE, p=rng.dirichlet(np.ones(CLASSES))).astype(np.uint8)
        labels.ravel()[:CLASSES] = range(CLASSES)  # so that every version has every class
        data = self._encode(labels)
        digest = xxhash.xxh3_64_intdigest(data)
        self.counts[digest] = {i: int(n) for i, n in enumerate(np.bincount(labels.ravel())) if n}
        new = self.path.parent / f"{self.path.name}.new"
        new.write_bytes(data)
        since = time.time()
        new.replace(self.path / name)
        self._record(name, digest, since)

    def _encode(self, labels: NDArray[np.uint8]) -> bytes:
        data = io.BytesIO()
        if self.suffix == ".npy":
            np.save(data, labels)
        else:
            Image.fromarray(labels).save(data, "PNG")
        return data.getvalue()

    def _record(self, name: str, content: int | None, since: float) -> None:
        periods = self.history.setdefault(name, [ContentPeriod(None, 0.0)])
        periods[-1].until = time.time()
        periods.append(ContentPeriod(content, since))
