"""Compiled loops that count the rows of label maps in columns of tiles. NOTES.md derives every step.

Most rows of a label map are almost equal to the row above, so pixels are counted where they change from row
to row. No input makes a loop access memory outside its arrays.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import inlined, kernel, trailing_zeros, word
from statsvc_workers.kernels.run_lengths import MOST_PENDING, count_bytes, move_counts

EACH_BYTE = np.uint64(0x0101010101010101)
"""Multiplied by a byte: a word that contains the byte eight times."""

WORD_BYTES = 8

IDS = 256
"""Counters of a column of tiles: one for each byte."""

MANY_CHANGES = 4
"""A row changes a lot if more than 1 of this many words differ from the row above."""

FEW_CHANGES = 8
"""A row changes little if fewer than 1 of this many words differ from the row above."""


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
def _same(flat, i, k):
    """Whether 64 bytes from i on equal those from k on: one branch."""
    differs = word(flat, i) ^ word(flat, k)
    differs |= word(flat, i + 8) ^ word(flat, k + 8)
    differs |= word(flat, i + 16) ^ word(flat, k + 16)
    differs |= word(flat, i + 24) ^ word(flat, k + 24)
    differs |= word(flat, i + 32) ^ word(flat, k + 32)
    differs |= word(flat, i + 40) ^ word(flat, k + 40)
    differs |= word(flat, i + 48) ^ word(flat, k + 48)
    differs |= word(flat, i + 56) ^ word(flat, k + 56)
    return differs == 0


@kernel
def _compare_row(flat, begin, columns, rows, counts):
    """Compare the row that starts at flat[begin] with the row before it; return how many words changed.

    rows  if not 0, `counts` moves this many pixels from the old id to the new id of every changed byte
    """
    width = columns[-1]
    above = begin - width
    column = 0
    edge = columns[1]
    changed = 0
    i = 0
    while i + 8 <= width:
        if i + 64 <= width and _same(flat, begin + i, above + i):
            i += 64
            continue
        old = word(flat, above + i)
        new = word(flat, begin + i)
        if new != old:
            changed += 1
            if rows != 0:
                while edge <= i:
                    column += 1
                    edge = columns[column + 1]
                if i + 8 <= edge:
                    exchange(old, new, rows, counts, np.uint64(IDS * column))
                else:
                    exchange_across(old, new, i, columns, column, rows, counts)
        i += 8
    if rows != 0:
        while i < width:
            while edge <= i:
                column += 1
                edge = columns[column + 1]
            counts[IDS * column + flat[above + i]] -= rows
            counts[IDS * column + flat[begin + i]] += rows
            i += 1
    return changed


@kernel
def _count_singly(flat, begin, columns, counters):
    """Count the bytes of a row that starts at flat[begin] one by one, with the counters of `count_bands`."""
    for column in range(len(columns) - 1):
        i = begin + columns[column]
        end = begin + columns[column + 1]
        own = counters[column]
        i = count_bytes(flat, i, end, own)
        while i < end:  # fewer than 16 bytes, each in its own table
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
    of its column moves to the new id. After two rows with many changes, rows are counted one by one, until a
    row has few changes.
    """
    width = columns[-1]
    for band in range(len(rows) - 1):
        top = rows[band]
        bottom = rows[band + 1]
        if top == bottom:
            continue
        table = counts[band_of[band]]
        line = flat[top * width : (top + 1) * width]
        count_columns(line, columns, bottom - top, table)
        steady = True  # whether `table` includes the row above for all remaining rows
        changed_rows = 0  # consecutive rows with many changes
        pending = 0  # pixels in `counters`
        for y in range(top + 1, bottom):
            begin = y * width
            remaining = bottom - y
            changed = _compare_row(flat, begin, columns, remaining if steady else 0, table)
            if steady:
                changed_rows = changed_rows + 1 if MANY_CHANGES * WORD_BYTES * changed > width else 0
                if changed_rows > 1 and remaining > 1:
                    steady = False
                    count_columns(flat[begin : begin + width], columns, 1 - remaining, table)
            elif FEW_CHANGES * WORD_BYTES * changed < width:
                steady = True
                count_columns(flat[begin : begin + width], columns, remaining, table)
                changed_rows = 0
            else:
                _count_singly(flat, begin, columns, counters)
                pending += width
                if pending > MOST_PENDING:
                    _move_columns(counters, table)
                    pending = 0
        if pending > 0:
            _move_columns(counters, table)
