"""Compiled loops that count the rows of label maps in columns of tiles. NOTES.md derives every step.

Most rows of a label map are almost equal to the row above, so pixels are counted where they change from row
to row. No input makes a loop access memory outside its arrays.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import (
    LANES,
    differing,
    equal_to,
    inlined,
    kernel,
    ones,
    trailing_zeros,
    word,
)
from statsvc_workers.kernels.run_lengths import MOST_PENDING, count_bytes, move_counts

EACH_BYTE = np.uint64(0x0101010101010101)
"""Multiplied by a byte: a word that contains the byte eight times."""

LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
"""All bits of a word except the highest bit of each byte."""

WORD_BYTES = 8

IDS = 256
"""Counters of a column of tiles: one for each byte."""

MANY_CHANGES = 4
"""A row changes a lot if more than 1 of this many words differ from the row above."""

FEW_CHANGES = 8
"""A row changes little if fewer than 1 of this many words differ from the row above."""

MAX_CHANGED_RUNS = 8
"""If 64 bytes change to more runs than this, they are moved word by word, otherwise run by run."""


@inlined
def add_bytes(a, b):
    """Return eight sums modulo 256.

    Adding without the top bits cannot carry into the next byte; XOR adds the top bits.
    """
    return ((a & LOW_BITS) + (b & LOW_BITS)) ^ ((a ^ b) & ~LOW_BITS)


@kernel
def exchange(old, new, rows, counts, base):
    """For each byte that differs between two words, move `rows` pixels from the old id to the new id.

    base  uint64, index of the counter of id 0; a view of the counters instead would cost a reference count
    """
    shift = np.uint64(0)
    while shift < 64:
        # `same` bytes have the same pair of an old and a new id, and are moved together.
        before = (old >> shift) & np.uint64(0xFF)
        after = (new >> shift) & np.uint64(0xFF)
        differs = ((old >> shift) ^ (before * EACH_BYTE)) | ((new >> shift) ^ (after * EACH_BYTE))
        same = np.uint64(8)
        if differs != 0:
            same = trailing_zeros(differs) >> np.uint64(3)
        same = min(same, np.uint64(8) - (shift >> np.uint64(3)))
        if before != after:
            counts[base + np.uint64(before)] -= np.int64(same) * rows
            counts[base + np.uint64(after)] += np.int64(same) * rows
        shift += np.uint64(8) * same


@kernel
def count_line(line, start, stop, rows, counts, base):
    """Count line[start:stop] as if it occurred in `rows` rows, run by run; negative `rows` subtracts it.

    base  uint64, index of the counter of id 0
    """
    i = start
    while i < stop:
        value = line[i]
        pattern = np.uint64(value) * EACH_BYTE
        begin = i
        i += 1
        while i + 8 <= stop:
            differs = word(line, i) ^ pattern
            if differs != 0:
                i += int(trailing_zeros(differs) >> np.uint64(3))
                break
            i += 8
        while i < stop and line[i] == value:
            i += 1
        counts[base + np.uint64(value)] += (i - begin) * rows


@kernel
def count_columns(line, columns, rows, counts):
    """Count the whole bytes of a line in each column of tiles, as `count_line` does."""
    for column in range(len(columns) - 1):
        count_line(line, columns[column], columns[column + 1], rows, counts, np.uint64(IDS * column))


@kernel
def exchange_across(old, new, i, columns, column, rows, counts):
    """As `exchange`, for the words at byte i of a row, which begin in `column` and end in a later one."""
    for k in range(8):
        while columns[column + 1] <= i + k:
            column += 1
        shift = np.uint64(8 * k)
        counts[IDS * column + np.int64((old >> shift) & np.uint64(0xFF))] -= rows
        counts[IDS * column + np.int64((new >> shift) & np.uint64(0xFF))] += rows


@inlined
def move_word(old, new, i, columns, column, rows, counts):
    """Move counts for the words at byte i of a row; return the column of tiles in which they begin.

    column  the column in which an earlier byte of the row is
    """
    while columns[column + 1] <= i:
        column += 1
    if i + 8 <= columns[column + 1]:
        exchange(old, new, rows, counts, np.uint64(IDS * column))
    else:
        exchange_across(old, new, i, columns, column, rows, counts)
    return column


@inlined
def move_byte(old, new, i, columns, column, rows, counts):
    """As `move_word`, for single bytes."""
    while columns[column + 1] <= i:
        column += 1
    counts[IDS * column + old] -= rows
    counts[IDS * column + new] += rows
    return column


@inlined
def _words(changes):
    """Return a bit for the first byte of each word with a change, given a bit for each of 64 bytes."""
    changes |= changes >> np.uint64(4)
    changes |= changes >> np.uint64(2)
    changes |= changes >> np.uint64(1)
    return changes & EACH_BYTE


@inlined
def changed_words(changes):
    """Return how many words of eight bytes contain a change, given a bit for each of 64 bytes."""
    return np.int64(ones(_words(changes)))


@kernel
def move_changes(changes, above, a, line, k, add, i, columns, column, rows, counts):
    """Move counts for the bytes of a row that change; return the column of tiles of the last one.

    changes   uint64, a bit for each of the 64 bytes from byte i of the row on
    above, a  the old ids from above[a] on
    line, k   the new ids from line[k] on, or the differences from the old ids if `add`; k is at least 1
    column    the column in which an earlier byte of the row is
    """
    if ones(changes & differing(line, k, line, k - 1)) > MAX_CHANGED_RUNS:
        words = _words(changes)
        while words != 0:
            at = np.int64(trailing_zeros(words))
            words &= words - np.uint64(1)  # without its lowest bit
            before = word(above, a + at)
            after = word(line, k + at)
            after = add_bytes(before, after) if add else after
            column = move_word(before, after, i + at, columns, column, rows, counts)
        return column
    while changes != 0:
        # Bytes with the same pair of an old and a new id are moved together.
        first = trailing_zeros(changes)
        begin = np.int64(first)
        old = above[a + begin]
        value = line[k + begin]
        others = ~((equal_to(above, a, old) & equal_to(line, k, value)) >> first)
        end = begin + np.int64(trailing_zeros(others)) if others != 0 else np.int64(LANES)
        while columns[column + 1] <= i + begin:
            column += 1
        end = min(end, columns[column + 1] - i)
        new = np.uint8(old + value) if add else value
        counts[IDS * column + old] -= rows * (end - begin)
        counts[IDS * column + new] += rows * (end - begin)
        changes &= ~np.uint64(0) << np.uint64(end) if end < LANES else np.uint64(0)
    return column


@kernel
def _compare_row(flat, begin, columns, rows, counts):
    """Compare the row that starts at flat[begin] with the row before it; return how many words changed.

    rows  if not 0, `counts` moves this many pixels from the old id to the new id of every changed byte
    """
    width = columns[-1]
    above = begin - width
    column = 0
    changed = 0
    i = 0
    while i + LANES <= width:
        changes = differing(flat, begin + i, flat, above + i)
        if changes != 0:
            changed += changed_words(changes)
            if rows != 0:
                column = move_changes(
                    changes, flat, above + i, flat, begin + i, False, i, columns, column, rows, counts
                )
        i += LANES
    while i + 8 <= width:
        old = word(flat, above + i)
        new = word(flat, begin + i)
        if new != old:
            changed += 1
            if rows != 0:
                column = move_word(old, new, i, columns, column, rows, counts)
        i += 8
    if rows != 0:
        while i < width:
            column = move_byte(flat[above + i], flat[begin + i], i, columns, column, rows, counts)
            i += 1
    return changed


@kernel
def _count_singly(flat, top, bottom, columns, counters):
    """Count the bytes of rows one by one, with the counters of `count_bands`.

    They are counted column by column: the counters of one column fit into the first-level cache.
    """
    width = columns[-1]
    for column in range(len(columns) - 1):
        own = counters[column]
        for y in range(top, bottom):
            i = y * width + columns[column]
            end = y * width + columns[column + 1]
            i = count_bytes(flat, i, end, own)
            if i + 8 <= end:
                octet = word(flat, i)
                for k in range(8):
                    byte = (octet >> np.uint64(8 * k)) & np.uint64(0xFF)
                    own[np.uint64(256 * k) + byte] += np.uint32(1)
                i += 8
            while i < end:  # fewer than eight bytes, each in its own table
                own[256 * (end - i) + np.int64(flat[i])] += np.uint32(1)
                i += 1


@kernel
def _move_columns(counters, table):
    """Add the counters of all columns to a row of tiles, and set them to zero."""
    for column in range(len(counters)):
        move_counts(counters[column], table, IDS * column, np.int64(1))


@kernel
def count_bands(flat, rows, band_of, columns, counts, counters):
    """Count the rows of a rectangle of bytes in tiles.

    flat      uint8 [rows[-1] * width], width at least 1
    rows      int64 [b + 1], row at which each band of tiles begins, ascending from 0, and the last one's end
    band_of   int64 [b], row of `counts` for each band
    columns   int64 [c + 1], byte at which each column of tiles begins, ascending from 0, and the width
    counts    int64 [bands, c * IDS], to which the pixels are added
    counters  uint32 [c, 16 * IDS] of zeros, as for `count_bytes`; zeros on return

    Within a band, the first row is counted as if it occurred in all rows, and where a byte changes, the rest
    of its column moves to the new id. After two rows with many changes, the bytes of rows are counted one by
    one, until a row has few changes.
    """
    width = columns[-1]
    steady = True  # whether `table` includes the row above for all remaining rows
    for band in range(len(rows) - 1):
        top = rows[band]
        bottom = rows[band + 1]
        if top == bottom:
            continue
        table = counts[band_of[band]]
        if steady:
            count_columns(flat[top * width : (top + 1) * width], columns, bottom - top, table)
        changed_rows = 0  # consecutive rows with many changes
        singly = top  # the first row whose bytes are counted one by one, but not yet
        pending = 0 if steady else width  # pixels in `counters`, or about to be
        for y in range(top + 1, bottom):
            begin = y * width
            remaining = bottom - y
            changed = _compare_row(flat, begin, columns, remaining if steady else 0, table)
            if steady:
                changed_rows = changed_rows + 1 if MANY_CHANGES * WORD_BYTES * changed > width else 0
                if changed_rows > 1 and remaining > 1:
                    steady = False
                    singly = y + 1
                    count_columns(flat[begin : begin + width], columns, 1 - remaining, table)
            elif FEW_CHANGES * WORD_BYTES * changed < width:
                steady = True
                _count_singly(flat, singly, y, columns, counters)
                count_columns(flat[begin : begin + width], columns, remaining, table)
                changed_rows = 0
            else:
                pending += width
                if pending > MOST_PENDING:
                    _count_singly(flat, singly, y + 1, columns, counters)
                    _move_columns(counters, table)
                    singly = y + 1
                    pending = 0
        if not steady:
            _count_singly(flat, singly, bottom, columns, counters)
        if pending > 0:
            _move_columns(counters, table)
