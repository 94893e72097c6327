"""One sample while it is counted, and its counts as raw ids."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from statsvc.dataset import objects as object_entries
from statsvc.dataset.counting_rule import VALUE
from statsvc.dataset.grid import NO_PLACE, Place
from statsvc.dataset.objects import Objects
from statsvc.errors import UnreadableSample
from statsvc_workers.cluster import rules
from statsvc_workers.formats import Mode
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.kernels.tiles import TileCounter, merged_entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from statsvc_workers.cluster.count_options import CountOptions
    from statsvc_workers.kernels.device import Engine
    from statsvc_workers.kernels.histogram import Counter
    from statsvc_workers.kernels.tiles import Entries
    from statsvc_workers.samples.members import Member

    Int64 = NDArray[np.int64]
    Conversion = Callable[[Int64, Int64], Int64]
    """From the distinct ids, ascending, and the pixels of each to other ids, int64 [k] each."""

NO_TILE = -1
"""The tile of an entry that counts a whole label map."""

UNKNOWN_OBJECTS = object_entries.unknown(1)
"""The objects of a sample whose source does not number them."""

NO_ENTRIES: Entries = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


class Sample(Struct):
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
    objects: Objects = UNKNOWN_OBJECTS


def finish(options: CountOptions, sample: Sample, engine: Engine) -> None:
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


def _entries(sample: Sample, engine: Engine) -> Entries:
    """Return the entries over the numbers of the file. Raises `UnreadableSample`."""
    if isinstance(sample.counter, TileCounter):
        return sample.counter.result(engine)
    if sample.counter is not None:
        ids, counts = engine.result(sample.counter)
        return np.full(len(ids), NO_TILE), ids, counts
    return sample.entries


def _conversion(options: CountOptions, sample: Sample) -> Conversion | None:
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


def _objects(options: CountOptions, sample: Sample, entries: Entries, convert: Conversion | None) -> Objects:
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
        return UNKNOWN_OBJECTS
    numbers, pixels, _ = _by_number(entries)
    selected = is_object(numbers)
    ids, pixels = convert(numbers, pixels)[selected], pixels[selected]
    order = np.lexsort((pixels, ids))
    return Objects(np.array([len(order)]), ids[order], pixels[order])
