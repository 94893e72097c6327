"""Count a batch of samples: read each file, count its pixels, and name the files that cannot be read."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from statsvc.common.object_urls import is_listable
from statsvc.dataset.grid import NO_PLACE, Place
from statsvc.errors import UnreadableSample
from statsvc_workers.cluster import rules
from statsvc_workers.cluster.batch_result import UNREADABLE, BatchResult, batch_result
from statsvc_workers.cluster.count_options import CountOptions
from statsvc_workers.cluster.failures import explain
from statsvc_workers.cluster.hashed_file import HashedFile
from statsvc_workers.cluster.sample import NO_ENTRIES, NO_TILE, Sample, finish
from statsvc_workers.formats import open_label_map, pixel_rule
from statsvc_workers.kernels.device import Engine
from statsvc_workers.kernels.histogram import TooManyIds
from statsvc_workers.kernels.tiles import TileCounter
from statsvc_workers.samples.members import SCAN_AGAIN, Member, sample_name
from statsvc_workers.samples.open_file import open_file
from statsvc_workers.samples.open_sample import read_ahead
from statsvc_workers.samples.roots import restricted
from statsvc_workers.samples.stamps import SampleChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.formats import LabelMap
    from statsvc_workers.samples.open_file import OpenSample
    from statsvc_workers.samples.read_ahead import ReadAhead
    from statsvc_workers.samples.stamps import Stamp

    Admit = Callable[[str, BinaryIO, int], bool]

__all__ = ["UNREADABLE", "BatchResult", "CountOptions", "count_samples"]

READ_ATTEMPTS = 3
"""How often a file that keeps changing is read before it is reported as unreadable."""

RACY_NS = 2_000_000_000
"""A file changed less than 2 s before it was read may change again without a change of its time stamp."""


class _Cancelled(BaseException):
    """The batch was cancelled within a sample; not an `Exception`, which would make the sample unreadable."""


class _NotAdmitted(BaseException):
    """A sample is left out of the rows."""


def count_samples(
    options: CountOptions,
    paths: Sequence[str | Member],
    should_stop: Callable[[], bool] | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
    admit: Admit | None = None,
) -> BatchResult:
    """Read and count samples; an unreadable sample is a row with an error.

    `should_stop` is called before each sample, and `cancelled` before each block of a sample. Once one of
    them returns True, the rows of the samples so far are returned, so there may be fewer rows than `paths`.
    `admit` is called with the path of each file, the open file, and its size in bytes; a file for which it
    returns False has no row.

    Raises only `MemoryError`, `OSError` where this process has too many open files, `KeyboardInterrupt`, and
    `InvalidParameter` for device "cuda" without a CUDA device.
    """
    started = time.perf_counter()
    engine = Engine(options.device)
    samples: list[Sample] = []
    with restricted(options.roots), read_ahead(options.root, paths) as ahead:
        for path in paths:
            if should_stop is not None and should_stop():
                break
            sample = Sample(sample_name(path), path if isinstance(path, Member) else None, cancelled)
            samples.append(sample)
            try:
                _read(options, sample, engine, ahead, admit)
            except _Cancelled:
                samples.pop()
                break
            except _NotAdmitted:
                samples.pop()
            except Exception as error:
                if isinstance(error, MemoryError) or _is_shortage(error):
                    raise
                too_many_colors = isinstance(error, TooManyIds) and options.counting.palette is not None
                sample.error = explain(rules.too_many_colors() if too_many_colors else error)
    engine.flush()
    for sample in samples:
        if not sample.error:
            finish(options, sample, engine)
    return batch_result(samples, time.perf_counter() - started)


def _is_shortage(error: Exception) -> bool:
    """Whether an error says nothing about the sample, because the process or the system lacks something."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _read(
    options: CountOptions, sample: Sample, engine: Engine, ahead: ReadAhead | None, admit: Admit | None
) -> None:
    """Count one sample with `engine`; start over where the file changed in the meantime."""
    for _ in range(READ_ATTEMPTS):
        try:
            _read_once(options, sample, engine, ahead, admit)
        except SampleChanged:
            if ahead is not None:
                ahead.forget(sample.member or sample.path)
            continue
        return
    raise UnreadableSample(
        f"changed while it was being read, {READ_ATTEMPTS} times; scan again when it is complete"
    )


def _read_once(
    options: CountOptions, sample: Sample, engine: Engine, ahead: ReadAhead | None, admit: Admit | None
) -> None:
    started = time.time_ns()
    with _open(options.root, sample, ahead) as source:
        before = source.stamp()
        sample.fingerprint, sample.etag = before.fingerprint, before.etag
        if admit is not None and source.file is not None and not admit(sample.path, source.file, before.size):
            raise _NotAdmitted
        member = sample.member
        if member is not None and member.listed not in (None, before.fingerprint):
            raise UnreadableSample(f"{member.file} changed after it was listed; {SCAN_AGAIN}")
        failure: Exception | None = None
        sample.counter, sample.entries = None, NO_ENTRIES
        try:
            _count(options, sample, source, engine)
        except UnreadableSample as error:
            failure = error
        after = source.stamp()
    if before != after:
        raise SampleChanged(sample.path)
    if failure is not None:
        raise failure
    if _is_racy(options.root, before, started):
        sample.fingerprint, sample.etag = (before.size, before.mtime_ns, -1), ""


def _is_racy(root: str, stamp: Stamp, started: int) -> bool:
    """Whether a file may still change without a change of its stamp; `started` is a time in nanoseconds."""
    if stamp.etag and is_listable(root):
        return False  # the ETag identifies the contents; a plain web server derives it from time and size
    # The two differ for a time stamp in the future: such an mtime was set on purpose, so the file is not
    # racy; such a ctime comes from the clock of another machine, so it is.
    return started - stamp.ctime_ns < RACY_NS or abs(started - stamp.mtime_ns) < RACY_NS


def _open(root: str, sample: Sample, ahead: ReadAhead | None) -> OpenSample:
    member = sample.member
    if ahead is not None:
        return ahead.open(member or sample.path)
    if member is None:
        return open_file(root, sample.path)
    return open_file(root, member.file, member.files, folder=member.in_folder)


def _count(options: CountOptions, sample: Sample, source: OpenSample, engine: Engine) -> None:
    """Count an open sample. Raises `UnreadableSample`, and `_Cancelled` between blocks."""
    member, counting = sample.member, options.counting
    data = source.file
    if member is not None:
        from statsvc_workers.containers.open_member import member_bytes, open_member

        data = member_bytes(member, source)
    hashed = HashedFile(data)
    file = cast("BinaryIO", hashed)
    try:
        label_map: LabelMap
        if member is None:
            rule = pixel_rule(counting)
            label_map = open_label_map(sample.path, file, options.max_pixels, key=counting.key, **rule)
        else:
            label_map = open_member(member, source, file, options.max_pixels, counting)
        sample.height, sample.width, sample.mode = label_map.height, label_map.width, label_map.mode
        sample.meaning, sample.separate_objects = label_map.meaning, label_map.objects
        image = (1, label_map.height, label_map.width)
        whole = label_map.volume or image
        sample.place = Place((0, 0, 0), whole, whole)
        if member is not None and member.place is not None:
            sample.place = member.place
        elif label_map.layout is None:
            sample.place = NO_PLACE
        sample.shape = image if sample.place is NO_PLACE else sample.place.shape
        label_map.chunks = _until_cancelled(sample, label_map.chunks)
        for chunk in _counted_chunks(options, sample, label_map, engine):
            if data is None:
                hashed.add(chunk)
        sample.content = hashed.finish()
    finally:
        sample.bytes_read += hashed.bytes_read


def _until_cancelled(sample: Sample, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yield the chunks. Raises `_Cancelled` once the batch is cancelled."""
    for chunk in chunks:
        if sample.cancelled is not None and sample.cancelled():
            raise _Cancelled
        yield chunk


def _counted_chunks(
    options: CountOptions, sample: Sample, label_map: LabelMap, engine: Engine
) -> Iterator[NDArray[Any]]:
    """Count a label map, on the grid where it applies; yield the chunks that were decoded."""
    grid = options.counting.grid
    if grid is None or label_map.layout is None or (sample.shape[0] > 1 and not grid.depth):
        yield from _counted_whole(sample, label_map, engine)
    elif label_map.tiles is not None and engine.device != "cuda":
        sample.entries = label_map.tiles(grid)
    else:
        sample.counter = TileCounter(*sample.shape, grid, label_map.layout)
        yield from sample.counter.count(label_map.chunks, engine)


def _counted_whole(sample: Sample, label_map: LabelMap, engine: Engine) -> Iterator[NDArray[Any]]:
    """Count a label map without a grid; yield the chunks that were decoded."""
    if label_map.histogram is not None and engine.device != "cuda":
        ids, counts = label_map.histogram()
        sample.entries = np.full(len(ids), NO_TILE), ids, counts
    else:
        sample.counter = engine.counter()
        for chunk in label_map.chunks:
            engine.add(sample.counter, chunk)
            yield chunk
