"""Where a batch is counted: as it is read on the CPU, or a batch at once on CUDA."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter, UnreadableSample
from workers.bincount import Counter, check_ids, count_batch_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

HELD_BYTES = 1 << 26
"""Label maps that wait for the next launch: 64 MB of host memory."""

_auto: str | None = None  # what "auto" came to in this process


class Engine:
    """Counts the chunks of many samples, each into its `Counter`.

    With CUDA, chunks wait until enough of them make a launch worth it; so a sample's counter is complete,
    and its failure known, only after `flush`. With "auto" it is looked for when the first chunk comes, and
    the first batch decides: what is counted while it is decoded (PNG) never loads Torch.
    """

    def __init__(self, device: str) -> None:
        self.device = _resolve(device)
        self._waiting: list[tuple[Counter, NDArray[Any]]] = []
        self._bytes = 0
        # By id; the counter is held, too, so that no other gets its id.
        self._failed: dict[int, tuple[Counter, UnreadableSample]] = {}

    def counter(self) -> Counter:
        """Return the counter of a new sample."""
        return Counter()

    def add(self, counter: Counter, chunk: NDArray[Any]) -> None:
        """Count a chunk, now or with the next launch. Raises `UnreadableSample`."""
        if self.device == "auto":
            self.device = _auto or ("undecided" if _nvidia() and _torch_sees_cuda() else "cpu")
        if self.device == "cpu":
            counter.add(chunk)
            return
        if id(counter) in self._failed:
            raise self._failed[id(counter)][1]
        check_ids(chunk)
        self._waiting.append((counter, chunk))
        self._bytes += chunk.nbytes
        if self._bytes >= HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Count what waits."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        if self.device == "undecided":
            self.device = _faster([chunk for _, chunk in waiting])
        if self.device == "cpu":
            for counter, chunk in waiting:
                self._into(counter, chunk, None)
            return
        found: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]] | None]
        try:
            found = count_batch_torch([chunk for _, chunk in waiting], "cuda")
        except RuntimeError as error:
            # Out of memory, or another program broke the device: the files are not at fault.
            log.warning("CUDA failed (%s); this batch is counted on the CPU", error)
            found = [None] * len(waiting)
        for (counter, chunk), histogram in zip(waiting, found, strict=True):
            self._into(counter, chunk, histogram)

    def result(self, counter: Counter) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sample's ids and counts. Raises `UnreadableSample`."""
        if id(counter) in self._failed:
            raise self._failed[id(counter)][1]
        return counter.result()

    def _into(
        self,
        counter: Counter,
        chunk: NDArray[Any],
        histogram: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    ) -> None:
        try:
            if histogram is None:
                counter.add(chunk)
            else:
                counter.merge(*histogram)
        except UnreadableSample as error:
            self._failed[id(counter)] = (counter, error)


def require(device: str) -> None:
    """Check before a scan starts that its device is there. Raises `InvalidParameter`."""
    _resolve(device)


def _resolve(device: str) -> str:
    """Return the device where it is one that is there. Raises `InvalidParameter`."""
    if device in ("cpu", "auto"):
        return device
    if device == "cuda":
        if not _torch_sees_cuda():
            raise InvalidParameter(("device", "no CUDA device that Torch can use here; take cpu or auto"))
        return "cuda"
    raise InvalidParameter(("device", f"{device!r} is not one of auto, cpu, cuda"))


def _nvidia() -> bool:
    """Whether the driver shows a device: a look at the file system, so that Torch stays unloaded."""
    return any(Path(sign).exists() for sign in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


def _torch_sees_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _faster(chunks: list[NDArray[Any]]) -> str:
    """Count the chunks both ways, remember the faster device for this process, and return it."""
    global _auto
    count_batch_torch(chunks[:1], "cuda")  # start the device; no part of the comparison
    started = time.perf_counter()
    count_batch_torch(chunks, "cuda")
    cuda = time.perf_counter() - started
    started = time.perf_counter()
    for chunk in chunks:
        try:
            Counter().add(chunk)
        except UnreadableSample:
            continue
    _auto = "cuda" if cuda < time.perf_counter() - started else "cpu"
    return _auto
