"""Where a batch is counted: as it is read on the CPU, or a batch at once on CUDA."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter, UnreadableSample
from statsvc_workers.kernels.histogram import Counter, check_ids, count_batch_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

HELD_BYTES = 1 << 26
"""Label maps that wait for the next launch: 64 MB of host memory."""

_auto: str | None = None  # what "auto" came to in this process
_kernel: bool | None = None  # whether bytes are counted by `statsvc_workers.kernels.cuda`, not by Torch


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
        chunks = [chunk for _, chunk in waiting]
        found: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]] | None] = [None] * len(waiting)
        try:
            if self.device == "undecided":
                self.device = _faster(chunks)
            if self.device == "cuda":
                found = _on_cuda(chunks)
        except UnreadableSample:
            log.debug("one of %d label maps has too many ids; the CPU tells which", len(waiting))
        except Exception as error:  # noqa: BLE001 - numba's are no RuntimeError, as Torch's are
            # Out of memory, or another program broke the device: the files are not at fault.
            log.warning("CUDA failed (%s); this batch is counted on the CPU", error)
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
    _on_cuda(chunks)  # start the device; no part of the comparison
    started = time.perf_counter()
    _on_cuda(chunks)
    cuda = time.perf_counter() - started
    started = time.perf_counter()
    for chunk in chunks:
        try:
            Counter().add(chunk)
        except UnreadableSample:
            continue
    _auto = "cuda" if cuda < time.perf_counter() - started else "cpu"
    return _auto


def _on_cuda(chunks: list[NDArray[Any]]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Count chunks on CUDA: bytes by the kernel where it works and was faster, the others by Torch."""
    global _kernel
    of_bytes = [at for at, chunk in enumerate(chunks) if chunk.dtype.kind in "bu" and chunk.itemsize == 1]
    if _kernel is None and of_bytes:
        _kernel = _kernel_is_faster([chunks[at] for at in of_bytes])
    if not _kernel:
        return count_batch_torch(chunks, "cuda")
    from statsvc_workers.kernels import cuda

    others = [at for at in range(len(chunks)) if at not in set(of_bytes)]
    found = dict(zip(of_bytes, cuda.count_batch([chunks[at] for at in of_bytes]), strict=True))
    found |= zip(others, count_batch_torch([chunks[at] for at in others], "cuda"), strict=True)
    return [found[at] for at in range(len(chunks))]


def _kernel_is_faster(chunks: list[NDArray[Any]]) -> bool:
    """Count bytes both ways; whether the kernel compiled and took less time."""
    from statsvc_workers.kernels import cuda

    if not cuda.available():
        return False
    seconds = []
    for counted in (cuda.count_batch, partial(count_batch_torch, device="cuda")):
        counted(chunks)  # allocates its buffers
        started = time.perf_counter()
        counted(chunks)
        seconds.append(time.perf_counter() - started)
    log.info("CUDA: the kernel took %.4f s, torch.bincount %.4f s", *seconds)
    return seconds[0] < seconds[1]
