"""Choose the device: count each chunk on the CPU as it is read, or a whole batch of chunks on CUDA."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
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

QUEUED_BYTES = 1 << 26
"""Chunks that wait for the next launch: 64 MB of host memory."""

_auto: str | None = None  # the device that "auto" chose in this process; None before
_kernel: bool | None = None  # whether `kernels.cuda` counts bytes, not Torch; None before the comparison


class Engine:
    """Counts the chunks of many samples, each into its `Counter`.

    With CUDA, chunks are queued until a launch pays off, so a sample's counter is complete, and its error is
    known, only after `flush`. With "auto", the first chunk triggers the search for a device and the first
    batch is counted on both; a format that is counted while it is decoded (PNG) never imports Torch.

    device  "auto", "cpu" or "cuda"; raises `InvalidParameter` for "cuda" without a CUDA device
    """

    def __init__(self, device: str) -> None:
        self.device = _resolve(device)
        self._waiting: list[tuple[Counter, NDArray[Any]]] = []
        self._bytes = 0
        # By id(counter); the value keeps the counter alive, so that no other object gets its id.
        self._failed: dict[int, tuple[Counter, UnreadableSample]] = {}

    def counter(self) -> Counter:
        """Return the counter of a new sample."""
        return Counter()

    def on_cpu(self) -> bool:
        """Whether chunks are counted on the CPU, immediately."""
        if self.device == "auto":
            self.device = _auto or ("undecided" if _nvidia() and _torch_sees_cuda() else "cpu")
        return self.device == "cpu"

    def add(self, counter: Counter, chunk: NDArray[Any]) -> None:
        """Count a chunk, immediately or with the next launch. Raises `UnreadableSample`."""
        if self.on_cpu():
            counter.add(chunk)
            return
        self._check(counter)
        check_ids(chunk)
        self._waiting.append((counter, chunk))
        self._bytes += chunk.nbytes
        if self._bytes >= QUEUED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Count all queued chunks."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        chunks = [chunk for _, chunk in waiting]
        histograms: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]] | None] = [None] * len(waiting)
        try:
            if self.device == "undecided":
                self.device = _faster(chunks)
            if self.device == "cuda":
                histograms = _on_cuda(chunks)
        except UnreadableSample:
            log.debug("One of %d label maps has too many ids. Counting on the CPU to find it", len(waiting))
        except Exception as error:  # noqa: BLE001 - Torch raises RuntimeError, numba other exceptions
            # Out of memory, or a failed device; the files are not the cause.
            log.warning("CUDA failed (%s). Counting this batch on the CPU", error)
        for (counter, chunk), histogram in zip(waiting, histograms, strict=True):
            self._add_to(counter, chunk, histogram)

    def result(self, counter: Counter) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sample's ids and counts. Raises `UnreadableSample`."""
        self._check(counter)
        return counter.result()

    def _check(self, counter: Counter) -> None:
        """Raise `UnreadableSample` if counting into the counter failed."""
        if id(counter) in self._failed:
            raise self._failed[id(counter)][1]

    def _add_to(
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
    """Check before a scan that the device is available. Raises `InvalidParameter` where it is not."""
    _resolve(device)


def _resolve(device: str) -> str:
    """Return the device if it is available. Raises `InvalidParameter` otherwise."""
    if device in ("cpu", "auto"):
        return device
    if device == "cuda":
        if not _torch_sees_cuda():
            raise InvalidParameter(("device", "Torch finds no CUDA device on this machine; use cpu or auto"))
        return "cuda"
    raise InvalidParameter(("device", f"{device!r} must be one of auto, cpu, cuda"))


def _nvidia() -> bool:
    """Whether the driver provides a device: checks the file system, so that Torch need not be imported."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


def _torch_sees_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _faster(chunks: list[NDArray[Any]]) -> str:
    """Count the chunks on both devices; return the faster one, and use it for the rest of this process."""
    global _auto
    seconds = []
    for count in (_on_cuda, _on_cpu):
        count(chunks)  # warm-up: the first call starts the device, or compiles a loop
        started = time.perf_counter()
        count(chunks)
        seconds.append(time.perf_counter() - started)
    _auto = "cuda" if seconds[0] < seconds[1] else "cpu"
    return _auto


def _on_cpu(chunks: list[NDArray[Any]]) -> None:
    for chunk in chunks:
        with suppress(UnreadableSample):
            Counter().add(chunk)


def _on_cuda(chunks: list[NDArray[Any]]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Count chunks on CUDA: bytes with our kernel if it works and is faster, all others with Torch."""
    global _kernel
    of_bytes = [i for i, chunk in enumerate(chunks) if chunk.dtype.kind in "bu" and chunk.itemsize == 1]
    if _kernel is None and of_bytes:
        _kernel = _kernel_is_faster([chunks[i] for i in of_bytes])
    if not _kernel:
        return count_batch_torch(chunks, "cuda")
    from statsvc_workers.kernels import cuda

    others = sorted(set(range(len(chunks))).difference(of_bytes))
    histograms = dict(zip(of_bytes, cuda.count_batch([chunks[i] for i in of_bytes]), strict=True))
    histograms |= zip(others, count_batch_torch([chunks[i] for i in others], "cuda"), strict=True)
    return [histograms[i] for i in range(len(chunks))]


def _kernel_is_faster(chunks: list[NDArray[Any]]) -> bool:
    """Whether our kernel compiles and takes less time for these bytes than Torch."""
    from statsvc_workers.kernels import cuda

    if not cuda.available():
        return False
    seconds = []
    for count_batch in (cuda.count_batch, partial(count_batch_torch, device="cuda")):
        count_batch(chunks)  # warm-up: the first call allocates buffers
        started = time.perf_counter()
        count_batch(chunks)
        seconds.append(time.perf_counter() - started)
    log.info("CUDA: our kernel took %.4f s, torch.bincount %.4f s", *seconds)
    return seconds[0] < seconds[1]
