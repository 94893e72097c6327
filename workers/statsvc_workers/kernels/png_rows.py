"""Compiled loops over the rows of a PNG: unfiltered, and counted while they are.

A label map is nearly all long runs of one id, and each row is nearly the one above. A word of eight bytes is
looked at at once: where it repeats the row above, which one comparison tells, nothing else happens; only
words in which the id changes are gone through byte by byte.

The loops never look beyond the lengths of the arrays that they are given, whatever these hold.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import all_equal, inlined, kernel, put_word, trailing_zeros, word

EACH_BYTE = np.uint64(0x0101010101010101)
"""Times a byte, a word of eight of it."""

LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
"""All bits of a word's bytes but the highest of each."""

NONE, SUB, UP, AVERAGE, PAETH = range(5)
"""PNG filter types, https://www.w3.org/TR/png-3/#9Filter-types."""


@inlined
def _paeth(left, up, corner):
    """Return whichever neighbour is nearest to left + up - corner, ties in this order."""
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
    """Return what a filter predicts of a byte from its neighbours."""
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
    """Whether the row above certainly goes on for 64 bytes from above[i] on, seen at once.

    left, corner  the bytes before them, in this row and above; the former eight times in `pattern`
    """
    if kind == NONE:
        differs = word(line, begin + i) ^ word(above, i)
        for k in range(1, 8):
            differs |= word(line, begin + i + 8 * k) ^ word(above, i + 8 * k)
        return differs == 0
    if not all_equal(line, begin + i, 8, np.uint64(0)):
        return False
    # With nothing added, Up repeats the row above, and Paeth does where left and corner agree …
    if kind == UP or (kind == PAETH and left == corner):
        return True
    # … and every filter goes on with the left byte where that is also what stands above.
    return left == corner and all_equal(above, i, 8, pattern)


@kernel
def _decoded(kind, residual, up, left, corner, pattern):
    """Return eight decoded bytes as a word.

    residual  what the filter added to its predictions
    up        the eight bytes above
    left, corner  the bytes before these, in this row and above; the former eight times in `pattern`
    """
    if kind == NONE:
        return residual
    if kind == UP:
        # Eight sums modulo 256 at once: without the top bits nothing is carried into the next byte.
        return ((residual & LOW_BITS) + (up & LOW_BITS)) ^ ((residual ^ up) & ~LOW_BITS)
    if residual == 0:
        # Nothing is added, so a run goes on where the filter predicts the left byte …
        if kind == SUB or up == pattern:
            return pattern
        if kind == PAETH:
            # … and the row above is repeated where left and corner agree, and go on to.
            if left == corner:
                return up
            if up == np.uint64(corner) * EACH_BYTE:
                return pattern
    # Byte by byte, in registers: reading back what was just written in smaller parts would wait for it.
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
def _exchange(old, new, rows, counts):
    """Move the bytes in which two words differ from their old to their new ids, for so many rows."""
    shift = np.uint64(0)
    while shift < 64:
        # As many bytes as go on as pairs of one old and one new id.
        before = (old >> shift) & np.uint64(0xFF)
        after = (new >> shift) & np.uint64(0xFF)
        differs = ((old >> shift) ^ (before * EACH_BYTE)) | ((new >> shift) ^ (after * EACH_BYTE))
        same = np.uint64(8)
        if differs != 0:
            same = trailing_zeros(differs) >> np.uint64(3)
        same = min(same, np.uint64(8) - (shift >> np.uint64(3)))
        if before != after:
            counts[before] -= np.int64(same) * rows
            counts[after] += np.int64(same) * rows
        shift += np.uint64(8) * same


@kernel
def _count_line(line, stop, rows, counts):
    """Count line[:stop] as it stands in so many rows, run by run; a negative number takes it back."""
    i = 0
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
        counts[value] += (i - begin) * rows


@kernel
def _decode_row(kind, data, begin, whole, above, rows, counts):
    """Decode whole bytes of a row over the row above, in place; return how many words changed.

    rows  where it is not 0: for so many rows, what changed is moved in `counts` from old to new ids
    """
    changed = 0
    left = np.uint8(0)  # before the first byte PNG has zero
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
                _exchange(old, new, rows, counts)
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
            counts[corner] -= rows
            counts[left] += rows
        i += 1
    return changed


@kernel
def count_rows(data, height, row, whole, counts, tails, before):
    """Unfilter rows of a PNG of one byte a pixel or less, and count their bytes.

    data    uint8 [height * (1 + row)], inflated: each row's filter type, then its bytes
    row     bytes of a row, at least 1
    whole   bytes of a row that are counted in `counts`, int64 [256]; row or row - 1
    tails   int64 [256], counts of the byte after them, where a row ends within a byte
    before  uint8 [row], the decoded row before them, zeros for the first; then the last of them

    Returns -1, or the number of the first row whose filter type is none of the five.

    A row of a label map is nearly the row above. So the row above is counted as though it stood in all rows
    that are left, and where a byte changes, the rest of its column moves from the old id to the new one: what
    repeats the row above costs nothing. Once two rows one after the other change in more than a quarter of
    their words, each is counted by itself, until one changes in less than an eighth.
    """
    steady = True
    unlike = 0  # rows one after the other that are unlike the one above
    _count_line(before, whole, height, counts)
    if whole < row:
        tails[before[whole]] += height
    for y in range(height):
        begin = y * (row + 1) + 1
        kind = data[begin - 1]
        if kind > PAETH:
            return y
        rows = height - y
        left = np.uint8(0)
        corner = np.uint8(0)
        if whole < row:
            corner = before[whole - 1] if whole > 0 else corner
        changed = _decode_row(kind, data, begin, whole, before, rows if steady else 0, counts)
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
            unlike = unlike + 1 if 32 * changed > whole else 0
            if unlike > 1:
                steady = False
                _count_line(before, whole, 1 - rows, counts)
        else:
            _count_line(before, whole, 1, counts)
            if 64 * changed < whole:
                steady = True
                _count_line(before, whole, rows - 1, counts)
    return -1


@kernel
def unfilter(data, height, row, step, pixels, before):
    """Unfilter rows of a PNG into an image.

    data    uint8 [height * (1 + row)], inflated: each row's filter type, then its bytes
    row     bytes of a row, at least 1
    step    bytes from a byte to its left neighbour: those of a pixel, at least 1
    pixels  uint8 [height, row], where the bytes go
    before  uint8 [row], the decoded row before them, zeros for the first; then the last of them

    Returns -1, or the number of the first row whose filter type is none of the five.
    """
    above = before
    for y in range(height):
        begin = y * (row + 1) + 1
        kind = data[begin - 1]
        if kind > PAETH:
            return y
        coded = data[begin : begin + row]
        line = pixels[y]
        if kind == NONE:
            line[:] = coded
        elif kind == UP:
            for i in range(row):
                line[i] = coded[i] + above[i]
        else:
            for i in range(row):
                left = np.int32(line[i - step]) if i >= step else np.int32(0)
                corner = np.int32(above[i - step]) if i >= step else np.int32(0)
                line[i] = np.uint8(coded[i] + _predicted(kind, left, np.int32(above[i]), corner))
        above = line
    before[:] = above
    return -1
