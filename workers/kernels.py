"""Compiled loops over pixels: PNG rows unfiltered and counted, arrays counted.

A label map is nearly all long runs of one id. Each loop looks at a word of eight bytes at once: where it
continues the run, which one comparison tells, the run grows and nothing else happens; only words in which
the id changes are gone through pixel by pixel.

Compiled by numba at first use and kept (see `compiled`); the loops hold no Python object and release the
GIL. They never look beyond the lengths of the arrays that they are given, whatever these hold.
"""

from __future__ import annotations

import numpy as np

from workers.compiled import inlined, kernel, put_word, word

EACH_BYTE = np.uint64(0x0101010101010101)
"""Times a byte, a word of eight of it."""

NONE, SUB, UP, AVERAGE, PAETH = range(5)
"""PNG filter types, https://www.w3.org/TR/png-3/#9Filter-types."""


@inlined
def _add(seen, touched, n, value, run):
    """Add a finished run to the row's histogram; return how many ids the row has."""
    if run > 0:
        if seen[value] == 0:
            touched[n] = value
            n += 1
        seen[value] += run
    return n


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
def _zero(line, stop):
    """Whether line[:stop] is all zero."""
    i = 0
    while i + 8 <= stop:
        if word(line, i) != 0:
            return False
        i += 8
    while i < stop:
        if line[i] != 0:
            return False
        i += 1
    return True


@kernel
def count_rows(data, height, row, whole, counts, tails):
    """Unfilter the rows of a PNG of one byte a pixel or less, and count their bytes.

    data    uint8 [height * (1 + row)], inflated: each row's filter type, then its bytes; decoded in place
    row     bytes of a row, at least 1
    whole   bytes of a row that are counted in `counts`, int64 [256]; row or row - 1
    tails   int64 [256], counts of the byte after them, where a row ends within a byte

    Returns -1, or the number of the first row whose filter type is none of the five.
    """
    seen = np.zeros(256, np.int64)
    touched = np.empty(256, np.uint8)
    above = np.zeros(row, np.uint8)
    n = 0
    repeats = 0
    for y in range(height):
        begin = y * (row + 1) + 1
        kind = data[begin - 1]
        if kind > PAETH:
            return y
        line = data[begin : begin + row]
        if kind == UP and repeats > 0 and _zero(line, row):
            # The row above once more: its histogram counts again, and it stays the row above.
            repeats += 1
            continue
        for t in range(n):
            counts[touched[t]] += seen[touched[t]] * repeats
            seen[touched[t]] = 0
        if whole < row:
            tails[above[whole]] += repeats
        n = 0
        value = np.uint8(0)  # the byte to the left; before the first one PNG has zero
        run = 0
        i = 0
        while i < whole:
            known = kind == NONE  # whether the next bytes are decoded already
            end = min(i + 8, whole)
            if i + 8 <= whole:
                pattern = np.uint64(value) * EACH_BYTE
                residual = word(line, i)
                if known:
                    decoded = residual
                elif residual == 0:
                    up = word(above, i)
                    corner = above[i - 1] if i > 0 else np.uint8(0)
                    # With nothing added, a run goes on where the filter predicts the left byte …
                    decoded = pattern
                    known = kind == SUB
                    if kind == UP or (kind == PAETH and value == corner):
                        # … and here it predicts the one above: left and corner agree, and go on to.
                        decoded = up
                        known = True
                    elif kind == AVERAGE:
                        known = up == pattern
                    elif kind == PAETH:
                        known = up == np.uint64(corner) * EACH_BYTE
                    if known:
                        put_word(line, i, decoded)
                if known and decoded == pattern:
                    run += 8
                    i += 8
                    continue
            while i < end:
                byte = line[i]
                if not known:
                    corner = above[i - 1] if i > 0 else np.uint8(0)
                    byte = np.uint8(
                        byte + _predicted(kind, np.int32(value), np.int32(above[i]), np.int32(corner))
                    )
                    line[i] = byte
                if byte != value:
                    n = _add(seen, touched, n, value, run)
                    value = byte
                    run = 0
                run += 1
                i += 1
        n = _add(seen, touched, n, value, run)
        if whole < row:
            corner = above[whole - 1] if whole > 0 else np.uint8(0)
            guess = _predicted(kind, np.int32(value), np.int32(above[whole]), np.int32(corner))
            line[whole] = np.uint8(line[whole] + guess)
        above = line
        repeats = 1
    for t in range(n):
        counts[touched[t]] += seen[touched[t]] * repeats
    if whole < row:
        tails[above[whole]] += repeats
    return -1


@kernel
def unfilter(data, height, row, step, pixels):
    """Unfilter the rows of a PNG into an image.

    data    uint8 [height * (1 + row)], inflated: each row's filter type, then its bytes
    row     bytes of a row, at least 1
    step    bytes from a byte to its left neighbour: those of a pixel, at least 1
    pixels  uint8 [height, row], where the bytes go

    Returns -1, or the number of the first row whose filter type is none of the five.
    """
    above = np.zeros(row, np.uint8)
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
    return -1


@kernel
def count_dense(flat, low, counts, every, each):
    """Count integers that lie close together.

    flat    integers [n], n at least 1
    low     the lowest of them
    counts  int64 [2, highest - low + 1], to whose two rows together their counts are added
    every   uint64, the bits of one of them, all set
    each    uint64, times one of them, a word of it

    Two rows, because increments of one counter wait for each other where ids alternate.
    """
    n = len(flat)
    inside = 8 // flat.itemsize
    value = flat[0]
    run = 0
    mixed = 0
    i = 0
    while i + inside <= n:
        if word(flat, i) == (np.uint64(value) & every) * each:
            run += inside
            i += inside
            mixed = 0
            continue
        mixed += 1
        if mixed > 2 and i + 64 <= n:
            # No runs here: count one by one for a while, then look again.
            for k in range(0, 64, 2):
                counts[0, np.int64(flat[i + k]) - low] += 1
                counts[1, np.int64(flat[i + k + 1]) - low] += 1
            i += 64
            continue
        for _ in range(inside):
            if flat[i] != value:
                counts[0, np.int64(value) - low] += run
                value = flat[i]
                run = 0
            run += 1
            i += 1
    while i < n:
        counts[0, np.int64(flat[i]) - low] += 1
        i += 1
    counts[0, np.int64(value) - low] += run


@kernel
def count_sparse(flat, ids, counts):
    """Count integers that lie far apart, in a hash table.

    flat    integers [n], n at least 1
    ids     int64 [2**k], room for the ids; those with a count above 0 in `counts`, int64 [2**k], are taken

    Returns how many ids there are, or -1 as soon as they fill half of the table.
    """
    mask = np.uint64(len(ids) - 1)
    filled = 0
    for slot in range(len(counts)):
        if counts[slot] > 0:
            filled += 1
    i = 0
    n = len(flat)
    while i < n:
        value = flat[i]
        run = 1
        i += 1
        while i < n and flat[i] == value:
            run += 1
            i += 1
        wanted = np.int64(value)
        # Fibonacci hashing: the high bits of a product with 2**64 over the golden ratio.
        place = ((np.uint64(wanted) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & mask
        while counts[place] > 0 and ids[place] != wanted:
            place = (place + np.uint64(1)) & mask
        if counts[place] == 0:
            if 2 * (filled + 1) > len(ids):
                return -1
            ids[place] = wanted
            filled += 1
        counts[place] += run
    return filled
