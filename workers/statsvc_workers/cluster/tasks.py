"""The work of a Dask worker: read a batch of samples, and return their counts and errors."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from statsvc.common.object_urls import is_listable
from statsvc.dataset import objects as object_entries
from statsvc.dataset.counting_rule import VALUE, Counting
from statsvc.dataset.grid import NO_PLACE, Place
from statsvc.dataset.objects import Objects
from statsvc.errors import UnreadableSample
from statsvc_workers.cluster import rules
from statsvc_workers.cluster.failures import explain
from statsvc_workers.cluster.hashed_file import HashedFile
from statsvc_workers.containers.open_member import member_bytes, open_member, pixel_rule
from statsvc_workers.formats import Mode, open_label_map
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.kernels.device import Engine
from statsvc_workers.kernels.histogram import TooManyIds
from statsvc_workers.kernels.tiles import TileCounter, merged_entries
from statsvc_workers.processes.stalls import STALL_TIMEOUT
from statsvc_workers.samples.members import SCAN_AGAIN, Member, sample_name
from statsvc_workers.samples.open_file import open_file
from statsvc_workers.samples.open_sample import read_ahead
from statsvc_workers.samples.roots import restricted
from statsvc_workers.samples.stamps import SampleChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from statsvc_workers.formats import LabelMap
    from statsvc_workers.kernels.histogram import Counter
    from statsvc_workers.kernels.tiles import Entries
    from statsvc_workers.samples.open_file import OpenSample
    from statsvc_workers.samples.read_ahead import ReadAhead
    from statsvc_workers.samples.stamps import Stamp

    Int64 = NDArray[np.int64]
    Conversion = Callable[[Int64, Int64], Int64]
    """From the distinct ids, ascending, and the pixels of each to other ids, int64 [k] each."""

COUNTED, UNREADABLE = 0, 1

NO_TILE = -1
"""The tile of an entry that counts a whole label map."""

NO_ENTRIES: Entries = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))

_NO_OBJECTS = Objects(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
"""The objects of an unreadable sample."""

READ_ATTEMPTS = 3
"""How often a file that keeps changing is read before it is reported as unreadable."""

RACY_NS = 2_000_000_000
"""A file changed less than 2 s before it was read may change again without a change of its time stamp."""


@dataclass(frozen=True, slots=True)
class CountOptions:
    """How samples are counted.

    root           folder or URL that the paths of the samples are relative to
    max_pixels     a larger label map is rejected before it is decoded
    device         where pixels are counted: "cpu", "cuda", or "auto", which uses CUDA only if a device exists
                   and the first batch, counted on both, was faster on it
    counting       the counting rule
    roots          folders and URLs outside which no file is opened, as `restricted` expects them; None for no
                   restriction
    stall_timeout  limits of reading and decoding in seconds, as for `watched`
    """

    root: str
    max_pixels: int
    device: str
    counting: Counting = field(default_factory=Counting)
    roots: tuple[str, ...] | None = None
    stall_timeout: float = STALL_TIMEOUT


@dataclass(slots=True)
class BatchResult:
    """The rows of one batch: n samples in the requested order.

    path                      n relative paths
    size, mtime_ns, ctime_ns  int64 [n], fingerprint by `fstat` of the file that was counted; zeros where it
                              could not be opened. `ctime_ns` is −1 where the file had changed less than 2 s
                              before, so that the row is never reused and the file is counted again
    etag                      n strings, ETags of the objects that were counted; "" for a file, and where
                              `ctime_ns` is −1
    content                   uint64 [n], xxh3 of the bytes; 0 for an unreadable sample
    height, width, pixels     int64 [n], pixels = height · width = sum of the counts; 0 for an unreadable
                              sample
    mode                      uint8 [n], `statsvc_workers.formats.Mode`
    place                     int64 [n, 9], where each sample is in its array, as `Place`; zeros if unknown
    status                    uint8 [n], 0 counted, 1 unreadable
    error                     n strings: what happened and what to do next; "" for a counted sample
    offsets                   int64 [n + 1], sample i has the ids `ids[offsets[i]:offsets[i + 1]]`
    ids, tile, counts         int64 [nnz], raw id, tile of the grid and pixels of each entry, ascending by id
                              and tile within each sample; tile −1 is the whole of a label map without a grid
    objects                   objects of the samples
    seconds, bytes_read       duration of the batch, and bytes read
    """

    path: list[str]
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    ctime_ns: NDArray[np.int64]
    etag: list[str]
    content: NDArray[np.uint64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    pixels: NDArray[np.int64]
    mode: NDArray[np.uint8]
    place: NDArray[np.int64]
    status: NDArray[np.uint8]
    error: list[str]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    tile: NDArray[np.int64]
    counts: NDArray[np.int64]
    objects: Objects
    seconds: float
    bytes_read: int


@dataclass(slots=True)
class _Sample:
    """One sample while it is being counted."""

    path: str
    member: Member | None = None
    cancelled: Callable[[], bool] | None = None
    fingerprint: tuple[int, int, int] = (0, 0, 0)
    etag: str = ""
    content: int = 0
    height: int = 0
    width: int = 0
    mode: int = Mode.UNKNOWN
    error: str = ""
    place: Place = NO_PLACE
    shape: tuple[int, int, int] = (0, 0, 0)
    counter: Counter | TileCounter | None = None
    meaning: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    bytes_read: int = 0
    entries: Entries = NO_ENTRIES
    separate_objects: Callable[[], tuple[Int64, Int64]] | None = None
    objects: Objects = field(default_factory=lambda: object_entries.unknown(1))


class _Cancelled(BaseException):
    """The batch was cancelled within a sample; not an `Exception`, which would make the sample unreadable."""


def count_samples(
    options: CountOptions,
    paths: Sequence[str | Member],
    should_stop: Callable[[], bool] | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
) -> BatchResult:
    """Read and count samples; an unreadable sample is a row with an error.

    `should_stop` is called before each sample, and `cancelled` before each block of a sample. Once one of
    them returns True, the rows of the samples so far are returned, so there may be fewer rows than `paths`.

    Raises only `MemoryError`, `OSError` where this process has too many open files, `KeyboardInterrupt`, and
    `InvalidParameter` for device "cuda" without a CUDA device.
    """
    started = time.perf_counter()
    engine = Engine(options.device)
    samples: list[_Sample] = []
    with restricted(options.roots), read_ahead(options.root, paths) as ahead:
        for path in paths:
            if should_stop is not None and should_stop():
                break
            sample = _Sample(sample_name(path), path if isinstance(path, Member) else None, cancelled)
            samples.append(sample)
            try:
                _read(options, sample, engine, ahead)
            except _Cancelled:
                samples.pop()
                break
            except Exception as error:
                if isinstance(error, MemoryError) or _is_shortage(error):
                    raise
                too_many_colors = isinstance(error, TooManyIds) and options.counting.palette is not None
                sample.error = explain(rules.too_many_colors() if too_many_colors else error)
    engine.flush()
    for sample in samples:
        if not sample.error:
            _finish(options, sample, engine)
    return _batch_result(samples, time.perf_counter() - started)


def _is_shortage(error: Exception) -> bool:
    """Whether an error says nothing about the sample, because the process or the system lacks something."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _read(options: CountOptions, sample: _Sample, engine: Engine, ahead: ReadAhead | None) -> None:
    """Count one sample with `engine`; start over where the file changed in the meantime."""
    for _ in range(READ_ATTEMPTS):
        try:
            _read_once(options, sample, engine, ahead)
        except SampleChanged:
            if ahead is not None:
                ahead.forget(sample.member or sample.path)
            continue
        return
    raise UnreadableSample(
        f"changed while it was being read, {READ_ATTEMPTS} times; scan again when it is complete"
    )


def _read_once(options: CountOptions, sample: _Sample, engine: Engine, ahead: ReadAhead | None) -> None:
    started = time.time_ns()
    with _open(options.root, sample, ahead) as source:
        before = source.stamp()
        sample.fingerprint, sample.etag = before.fingerprint, before.etag
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


def _open(root: str, sample: _Sample, ahead: ReadAhead | None) -> OpenSample:
    member = sample.member
    if ahead is not None:
        return ahead.open(member or sample.path)
    if member is None:
        return open_file(root, sample.path)
    return open_file(root, member.file, member.files, folder=member.in_folder)


def _count(options: CountOptions, sample: _Sample, source: OpenSample, engine: Engine) -> None:
    """Count an open sample. Raises `UnreadableSample`, and `_Cancelled` between blocks."""
    member, counting = sample.member, options.counting
    data = source.file if member is None else member_bytes(member, source)
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


def _until_cancelled(sample: _Sample, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yield the chunks. Raises `_Cancelled` once the batch is cancelled."""
    for chunk in chunks:
        if sample.cancelled is not None and sample.cancelled():
            raise _Cancelled
        yield chunk


def _counted_chunks(
    options: CountOptions, sample: _Sample, label_map: LabelMap, engine: Engine
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


def _counted_whole(sample: _Sample, label_map: LabelMap, engine: Engine) -> Iterator[NDArray[Any]]:
    """Count a label map without a grid; yield the chunks that were decoded."""
    if label_map.histogram is not None and engine.device != "cuda":
        ids, counts = label_map.histogram()
        sample.entries = np.full(len(ids), NO_TILE), ids, counts
    else:
        sample.counter = engine.counter()
        for chunk in label_map.chunks:
            engine.add(sample.counter, chunk)
            yield chunk


def _entries(sample: _Sample, engine: Engine) -> Entries:
    """Return the entries over the numbers of the file. Raises `UnreadableSample`."""
    if isinstance(sample.counter, TileCounter):
        return sample.counter.result(engine)
    if sample.counter is not None:
        ids, counts = engine.result(sample.counter)
        return np.full(len(ids), NO_TILE), ids, counts
    return sample.entries


def _conversion(options: CountOptions, sample: _Sample) -> Conversion | None:
    """Return the function from the numbers that a file represents to raw ids; None if they are raw ids."""
    if sample.member is not None and sample.member.kind == "panoptic":
        category_of = sample.member.where
        return lambda ids, _counts: rules.segment_ids(category_of, ids)
    if options.counting.rule != VALUE:
        return partial(rules.raw_ids, options.counting)
    return None


def _by_number(entries: Entries) -> tuple[Int64, Int64, Int64]:
    """Return the distinct numbers of entries, ascending, the pixels of each, and the number of each entry.

    They are int64 [k], int64 [k] and, as positions in the first, int64 [e].
    """
    _, ids, counts = entries
    distinct, position = np.unique(ids, return_inverse=True)
    pixels = np.zeros(len(distinct), np.int64)
    np.add.at(pixels, position, counts)
    return distinct, pixels, position


def _converted(entries: Entries, convert: Conversion) -> Entries:
    """Return the entries after a conversion of their ids."""
    distinct, pixels, position = _by_number(entries)
    return merged_entries(entries[0], convert(distinct, pixels)[position], entries[2])


def _objects(options: CountOptions, sample: _Sample, entries: Entries, convert: Conversion | None) -> Objects:
    """Return the objects of a sample, given its entries before the conversion to raw ids.

    A chunk of an array contains parts of objects, so nothing is known about their number.
    """
    if sample.separate_objects is not None:
        ids, pixels = sample.separate_objects()
        return Objects(np.array([len(ids)]), ids, pixels)
    is_object = rules.IS_OBJECT.get(options.counting.rule)
    if sample.member is not None and sample.member.kind == "panoptic":
        is_object = rules.is_segment
    if is_object is None or convert is None or options.counting.rows == "chunk":
        return object_entries.unknown(1)
    numbers, pixels, _ = _by_number(entries)
    selected = is_object(numbers)
    ids, pixels = convert(numbers, pixels)[selected], pixels[selected]
    order = np.lexsort((pixels, ids))
    return Objects(np.array([len(order)]), ids[order], pixels[order])


def _finish(options: CountOptions, sample: _Sample, engine: Engine) -> None:
    """Apply the counting rule to the sample's entries, and check their sum against the sample's shape."""
    try:
        entries = _entries(sample, engine)
        if sample.meaning is not None:
            meaning = sample.meaning
            entries = _converted(entries, lambda ids, _counts: meaning(ids))
        convert = _conversion(options, sample)
        sample.objects = _objects(options, sample, entries, convert)
        if convert is not None:
            entries = _converted(entries, convert)
    except UnreadableSample as error:
        sample.error = str(error)
        return
    counted = int(entries[2].sum())
    if counted != sample.height * sample.width:
        sample.error = (
            f"decodes to {counted} pixels, but its header declares {sample.width} x {sample.height}; "
            f"{COPY_AGAIN}"
        )
        return
    sample.entries = entries


def _batch_result(samples: list[_Sample], seconds: float) -> BatchResult:
    counted = [not sample.error for sample in samples]
    entries = [NO_ENTRIES if sample.error else sample.entries for sample in samples]
    objects = [_NO_OBJECTS if sample.error else sample.objects for sample in samples]
    lengths = [len(counts) for _, _, counts in entries]
    # np.concatenate needs at least one array.
    tile, ids, counts = (np.concatenate(values) for values in zip(NO_ENTRIES, *entries, strict=True))

    def column(values: list[int], dtype: type[np.generic] = np.int64) -> NDArray[np.int64]:
        return np.array(values, dtype)

    return BatchResult(
        path=[sample.path for sample in samples],
        size=column([sample.fingerprint[0] for sample in samples]),
        mtime_ns=column([sample.fingerprint[1] for sample in samples]),
        ctime_ns=column([sample.fingerprint[2] for sample in samples]),
        etag=[sample.etag for sample in samples],
        content=np.array([s.content * ok for s, ok in zip(samples, counted, strict=True)], np.uint64),
        height=column([s.height * ok for s, ok in zip(samples, counted, strict=True)]),
        width=column([s.width * ok for s, ok in zip(samples, counted, strict=True)]),
        pixels=column([s.height * s.width * ok for s, ok in zip(samples, counted, strict=True)]),
        mode=np.array([s.mode * ok for s, ok in zip(samples, counted, strict=True)], np.uint8),
        place=np.array(
            [s.place if ok else NO_PLACE for s, ok in zip(samples, counted, strict=True)], np.int64
        ).reshape(-1, 9),
        status=np.array([COUNTED if ok else UNREADABLE for ok in counted], np.uint8),
        error=[sample.error for sample in samples],
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        ids=ids,
        tile=tile,
        counts=counts,
        objects=object_entries.concatenate(objects),
        seconds=seconds,
        bytes_read=sum(sample.bytes_read for sample in samples),
    )
