"""Compiled loops that unfilter and count the rows of a PNG in one pass. NOTES.md derives every step.

A label map consists of long runs of one id, and most rows are almost equal to the row above. The loops
compare words of eight bytes: while a word repeats the row above, one comparison is all the work. Only words
in which the id changes are decoded byte by byte.

No input makes a loop access memory outside its arrays.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import (
    LANES,
    all_equal,
    differing,
    inlined,
    kernel,
    nonzero,
    put_lanes,
    put_word,
    word,
)
from statsvc_workers.kernels.tile_rows import (
    EACH_BYTE,
    FEW_CHANGES,
    IDS,
    MANY_CHANGES,
    WORD_BYTES,
    add_bytes,
    changed_words,
    count_columns,
    move_byte,
    move_changes,
    move_word,
)

NONE, SUB, UP, AVERAGE, PAETH = range(5)
"""PNG filter types, https://www.w3.org/TR/png-3/#9Filter-types."""


@inlined
def _paeth(left, up, corner):
    """Return the neighbor nearest to left + up - corner; ties prefer left, then up."""
    a = abs(up - corner)
    b = abs(left - corner)
    c = abs(left + up - 2 * corner)
    if a <= b and a <= c:
        return left
    if b <= c:
        return up
    return corner


@inlined
def _predicted(kind, left, up, corner):
    """Return the byte that a filter predicts from the neighbors of a byte."""
    if kind == SUB:
        return left
    if kind == UP:
        return up
    if kind == AVERAGE:
        return (left + up) >> 1
    if kind == PAETH:
        return _paeth(left, up, corner)
    return 0


@inlined
def _repeats(kind, line, begin, above, i, left, corner, pattern):
    """Whether the next 64 bytes of a row with the filter Sub, Average or Paeth certainly equal those above.

    left, corner  the bytes before them, in this row and in the row above
    pattern       a word that contains `left` eight times
    """
    if left != corner or not all_equal(line, begin + i, 8, np.uint64(0)):
        return False
    # All differences are zero. Paeth repeats the row above if left equals corner, because then
    # left + up - corner is exactly up. If all bytes above are equal, too, every filter predicts that value.
    return kind == PAETH or all_equal(above, i, 8, pattern)


@kernel
def _decoded(kind, residual, up, left, corner, pattern):
    """Return eight decoded bytes of a row with the filter Sub, Average or Paeth as a word.

    residual      the eight filtered bytes: the differences from the predictions
    up            the eight bytes above
    left, corner  the bytes before these, in this row and in the row above
    pattern       a word that contains `left` eight times
    """
    if residual == 0:
        # All differences are zero: Sub repeats the left byte, and so does every filter if the bytes above
        # equal it.
        if kind == SUB or up == pattern:
            return pattern
        if kind == PAETH:
            # Paeth repeats the row above if left equals corner: each decoded byte is then the next corner.
            if left == corner:
                return up
            # It repeats the left byte if all bytes above equal corner.
            if up == np.uint64(corner) * EACH_BYTE:
                return pattern
    if kind == SUB:
        # The sum of each byte and all bytes before it: those of two, then four, then eight bytes.
        sums = add_bytes(residual, residual << np.uint64(8))
        sums = add_bytes(sums, sums << np.uint64(16))
        return add_bytes(add_bytes(sums, sums << np.uint64(32)), pattern)
    # Byte by byte, in registers: writing bytes and loading them as a word would stall on store forwarding.
    decoded = np.uint64(0)
    shift = np.uint64(0)
    a = np.int32(left)
    c = np.int32(corner)
    for _ in range(8):
        b = np.int32((up >> shift) & np.uint64(0xFF))
        a = (np.int32((residual >> shift) & np.uint64(0xFF)) + _predicted(kind, a, b, c)) & 0xFF
        decoded |= np.uint64(a) << shift
        c = b
        shift += np.uint64(8)
    return decoded


@kernel
def _decode_row(kind, data, begin, columns, above, rows, counts):
    """Decode the whole bytes of a row over the row above, in place; return how many words changed.

    kind     the filter: Sub, Average or Paeth
    columns  as in `count_rows`
    counts   int64 [c * IDS], the counters of one row of tiles
    rows     if not 0, `counts` moves this many pixels from the old id to the new id of every changed
             byte
    """
    whole = columns[-1]
    column = 0
    changed = 0
    left = np.uint8(0)  # PNG defines the bytes before the first one as zero
    corner = np.uint8(0)
    i = 0
    while i + 8 <= whole:
        pattern = np.uint64(left) * EACH_BYTE
        if i + 64 <= whole and _repeats(kind, data, begin, above, i, left, corner, pattern):
            i += 64
            left = above[i - 1]
            corner = left
            continue
        old = word(above, i)
        new = _decoded(kind, word(data, begin + i), old, left, corner, pattern)
        if new != old:
            changed += 1
            put_word(above, i, new)
            if rows != 0:
                column = move_word(old, new, i, columns, column, rows, counts)
        left = np.uint8(new >> np.uint64(56))
        corner = np.uint8(old >> np.uint64(56))
        i += 8
    while i < whole:
        byte = above[i]
        a = np.int32(left)
        left = np.uint8(data[begin + i] + _predicted(kind, a, np.int32(byte), np.int32(corner)))
        corner = byte
        above[i] = left
        if left != corner:
            column = move_byte(corner, left, i, columns, column, rows, counts)
        i += 1
    return changed


@kernel
def _decode_row_by_column(kind, data, begin, columns, above, rows, counts):
    """As `_decode_row`, for the filters None and Up, which use no byte to the left.

    So 64 bytes are compared in one step, and only the words that change are decoded.
    """
    whole = columns[-1]
    column = 0
    changed = 0
    i = 0
    while i + LANES <= whole:
        changes = nonzero(data, begin + i) if kind == UP else differing(data, begin + i, above, i)
        if changes != 0:
            changed += changed_words(changes)
            if rows != 0:
                column = move_changes(
                    changes, above, i, data, begin + i, kind == UP, i, columns, column, rows, counts
                )
            put_lanes(above, i, data, begin + i, kind == UP)
        i += LANES
    while i + 8 <= whole:
        old = word(above, i)
        new = word(data, begin + i)
        if kind == UP:
            new = add_bytes(old, new)
        if new != old:
            changed += 1
            put_word(above, i, new)
            if rows != 0:
                column = move_word(old, new, i, columns, column, rows, counts)
        i += 8
    while i < whole:
        old = above[i]
        new = np.uint8(data[begin + i] + (old if kind == UP else np.uint8(0)))
        above[i] = new
        if new != old:
            column = move_byte(old, new, i, columns, column, rows, counts)
        i += 1
    return changed


@kernel
def _count_band(data, top, bottom, row, columns, counts, tails, before):
    """Unfilter and count the rows of one row of tiles; arguments and result as those of `count_rows`.

    Most rows of a label map are almost equal to the row above. So the row above is counted as if it occurred
    in all remaining rows, and where a byte changes, the rest of its column moves from the old id to the new
    id: bytes that repeat the row above cost nothing. After two consecutive rows with many changes
    (`MANY_CHANGES`), rows are counted individually, until a row has few changes (`FEW_CHANGES`).
    """
    if top == bottom:
        return np.int64(-1)
    steady = True  # whether `counts` includes the row above for all remaining rows
    changed_rows = 0  # consecutive rows with many changes
    whole = columns[-1]
    count_columns(before, columns, bottom - top, counts)
    if whole < row:
        tails[before[whole]] += bottom - top
    for y in range(top, bottom):
        begin = y * (row + 1) + 1
        kind = data[begin - 1]
        if kind > PAETH:
            return y
        rows = bottom - y
        left = np.uint8(0)
        corner = np.uint8(0)
        if whole < row:
            corner = before[whole - 1] if whole > 0 else corner
        moved = rows if steady else 0
        if kind in (NONE, UP):
            changed = _decode_row_by_column(kind, data, begin, columns, before, moved, counts)
        else:
            changed = _decode_row(kind, data, begin, columns, before, moved, counts)
        if whole < row:
            left = before[whole - 1] if whole > 0 else left
            up = before[whole]
            byte = np.uint8(
                data[begin + whole] + _predicted(kind, np.int32(left), np.int32(up), np.int32(corner))
            )
            before[whole] = byte
            tails[up] -= rows
            tails[byte] += rows
        if steady:
            changed_rows = changed_rows + 1 if MANY_CHANGES * WORD_BYTES * changed > whole else 0
            if changed_rows > 1:
                steady = False
                count_columns(before, columns, 1 - rows, counts)
        else:
            count_columns(before, columns, 1, counts)
            if FEW_CHANGES * WORD_BYTES * changed < whole:
                steady = True
                count_columns(before, columns, rows - 1, counts)
    return np.int64(-1)


@kernel
def count_rows(data, rows, row, columns, counts, tails, before):
    """Unfilter rows of a PNG of at most one byte per pixel, and count their bytes in tiles.

    data     uint8 [rows[-1] * (1 + row)], decompressed: each row's filter type, then its bytes
    rows     int64 [t + 1], row at which each row of tiles begins, ascending from 0, and the last one's end
    row      bytes of a row, at least 1
    columns  int64 [c + 1], byte at which each column of tiles begins, ascending from 0, and the last one's
             end: row, or row - 1 where a row ends within a byte
    counts   int64 [t * c * IDS], to which the whole bytes of each tile are added
    tails    int64 [256], to which the last bytes are added where a row ends within a byte
    before   uint8 [row], the decoded row before the first one (zeros at the top of the image); on return,
             the last decoded row

    Returns -1, or the index of the first row with an unknown filter type.
    """
    size = IDS * (len(columns) - 1)
    for k in range(len(rows) - 1):
        table = counts[k * size : (k + 1) * size]
        invalid = _count_band(data, rows[k], rows[k + 1], row, columns, table, tails, before)
        if invalid >= 0:
            return invalid
    return np.int64(-1)


@kernel
def unfilter(data, height, row, step, pixels, before):
    """Unfilter rows of a PNG into an image.

    data    uint8 [height * (1 + row)], decompressed: each row's filter type, then its bytes
    height  rows
    row     bytes of a row, at least 1
    step    distance to the left neighbor: the bytes of a pixel, at least 1
    pixels  uint8 [height, row], the output
    before  uint8 [row], the decoded row before the first one (zeros at the top of the image); on return, the
            last decoded row

    Returns -1, or the index of the first row with an unknown filter type.
    """
    above = before
    for y in range(height):
        begin = y * (row + 1) + 1
        kind = data[begin - 1]
        if kind > PAETH:
            return y
        coded = data[begin : begin + row]
        line = pixels[y]
        if kind == NONE:  # assigning whole arrays would call numba's runtime
            for i in range(row):
                line[i] = coded[i]
        elif kind == UP:
            for i in range(row):
                line[i] = coded[i] + above[i]
        else:
            for i in range(row):
                left = np.int32(line[i - step]) if i >= step else np.int32(0)
                corner = np.int32(above[i - step]) if i >= step else np.int32(0)
                line[i] = np.uint8(coded[i] + _predicted(kind, left, np.int32(above[i]), corner))
        above = line
    for i in range(row):
        before[i] = above[i]
    return -1
