"""Compiled loops over pixels: PNG rows unfiltered and counted, arrays counted.

A label map is nearly all long runs of one id. Each loop looks at a word of eight bytes at once: where it
continues the run, which one comparison tells, the run grows and nothing else happens; only words in which
the id changes are gone through pixel by pixel.

Compiled by numba at first use and kept (see `compiled`); the loops hold no Python object and release the
GIL. They never look beyond the lengths of the arrays that they are given, whatever these hold.
"""

from __future__ import annotations

import numpy as np

from workers.compiled import inlined, kernel, put_word, trailing_zeros, word

EACH_BYTE = np.uint64(0x0101010101010101)
"""Times a byte, a word of eight of it."""

LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
"""All bits of a word's bytes but the highest of each."""

COUNTERS = 8
"""Rows of a table of counts: pixels that follow each other without runs are counted in different ones."""

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


@inlined
def _all_equal(flat, i, inside, pattern):
    """Whether the eight words from flat[i] on all equal `pattern`: one branch for 64 bytes."""
    differs = word(flat, i) ^ pattern
    differs |= word(flat, i + inside) ^ pattern
    differs |= word(flat, i + 2 * inside) ^ pattern
    differs |= word(flat, i + 3 * inside) ^ pattern
    differs |= word(flat, i + 4 * inside) ^ pattern
    differs |= word(flat, i + 5 * inside) ^ pattern
    differs |= word(flat, i + 6 * inside) ^ pattern
    differs |= word(flat, i + 7 * inside) ^ pattern
    return differs == 0


@inlined
def _put_all(line, i, pattern):
    """Write `pattern` over the eight words from line[i] on."""
    put_word(line, i, pattern)
    put_word(line, i + 8, pattern)
    put_word(line, i + 16, pattern)
    put_word(line, i + 24, pattern)
    put_word(line, i + 32, pattern)
    put_word(line, i + 40, pattern)
    put_word(line, i + 48, pattern)
    put_word(line, i + 56, pattern)


@inlined
def _decode_byte(kind, line, above, i, left):
    """Decode line[i] in place, from the byte to its left and those above; return it."""
    corner = above[i - 1] if i > 0 else np.uint8(0)
    byte = np.uint8(line[i] + _predicted(kind, np.int32(left), np.int32(above[i]), np.int32(corner)))
    line[i] = byte
    return byte


@kernel
def _decode_word(kind, line, above, i, left, residual, pattern):
    """Decode the eight bytes from line[i] on in place, and return them as a word.

    left      the byte before them, eight times in `pattern`
    residual  the word as it stands there: what a filter added to its prediction
    """
    up = word(above, i)
    corner = above[i - 1] if i > 0 else np.uint8(0)
    decoded = pattern
    known = False
    if kind == UP:
        # Eight sums modulo 256 at once: without the top bits nothing is carried into the next byte.
        decoded = ((residual & LOW_BITS) + (up & LOW_BITS)) ^ ((residual ^ up) & ~LOW_BITS)
        known = True
    elif residual == 0:
        # Nothing is added, so a run goes on where the filter predicts the left byte …
        if kind == SUB:
            known = True
        elif kind == AVERAGE:
            known = up == pattern
        elif left == corner:
            # … and the row above is repeated where left and corner agree, and go on to.
            decoded = up
            known = True
        else:
            known = up == np.uint64(corner) * EACH_BYTE
    if not known:
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
    put_word(line, i, decoded)
    return decoded


@kernel
def count_rows(data, height, row, whole, counts, tails, before):
    """Unfilter rows of a PNG of one byte a pixel or less, and count their bytes.

    data    uint8 [height * (1 + row)], inflated: each row's filter type, then its bytes; decoded in place
    row     bytes of a row, at least 1
    whole   bytes of a row that are counted in `counts`, int64 [256]; row or row - 1
    tails   int64 [256], counts of the byte after them, where a row ends within a byte
    before  uint8 [row], the decoded row before them, zeros for the first; then the last of them

    Returns -1, or the number of the first row whose filter type is none of the five.
    """
    seen = np.zeros(256, np.int64)
    touched = np.empty(256, np.uint8)
    above = before
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
        while i + 8 <= whole:
            pattern = np.uint64(value) * EACH_BYTE
            decoded = word(line, i)
            if kind != NONE:
                decoded = _decode_word(kind, line, above, i, value, decoded, pattern)
            i += 8
            if decoded == pattern:
                run += 8
                # Inside a region this goes on: eight words at once, where left, above and corner agree.
                while i + 64 <= whole:
                    if kind == NONE:
                        if not _all_equal(line, i, 8, pattern):
                            break
                    else:
                        if not _all_equal(line, i, 8, np.uint64(0)):
                            break
                        if kind != SUB and not (above[i - 1] == value and _all_equal(above, i, 8, pattern)):
                            break
                        _put_all(line, i, pattern)
                    run += 64
                    i += 64
                continue
            # Runs end in this word: each at the lowest byte that differs from its own.
            done = 0  # bytes of the word behind the last end
            differs = decoded ^ pattern
            while differs != 0:
                end = int(trailing_zeros(differs) >> np.uint64(3))
                n = _add(seen, touched, n, value, run + end - done)
                run = 0
                done = end
                shift = np.uint64(8 * end)
                value = np.uint8((decoded >> shift) & np.uint64(0xFF))
                differs = ((decoded ^ (np.uint64(value) * EACH_BYTE)) >> shift) << shift
            run += 8 - done
        while i < whole:
            byte = line[i]
            if kind != NONE:
                byte = _decode_byte(kind, line, above, i, value)
            if byte != value:
                n = _add(seen, touched, n, value, run)
                value = byte
                run = 0
            run += 1
            i += 1
        n = _add(seen, touched, n, value, run)
        if whole < row:
            _decode_byte(kind, line, above, whole, value)
        above = line
        repeats = 1
    for t in range(n):
        counts[touched[t]] += seen[touched[t]] * repeats
    if whole < row:
        tails[above[whole]] += repeats
    before[:] = above
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


@kernel
def _count_singly(flat, i, end, low, table):
    """Count flat[i:end], rounded down to eights, one by one; return where it stopped, as `count_dense`."""
    span = np.uint64(table.shape[1])
    while i + 8 <= end:
        a = np.uint64(np.int64(flat[i]) - low)
        b = np.uint64(np.int64(flat[i + 1]) - low)
        c = np.uint64(np.int64(flat[i + 2]) - low)
        d = np.uint64(np.int64(flat[i + 3]) - low)
        e = np.uint64(np.int64(flat[i + 4]) - low)
        f = np.uint64(np.int64(flat[i + 5]) - low)
        g = np.uint64(np.int64(flat[i + 6]) - low)
        h = np.uint64(np.int64(flat[i + 7]) - low)
        # One branch for all eight: `or` would make one of each.
        if (
            (a >= span)
            | (b >= span)
            | (c >= span)
            | (d >= span)
            | (e >= span)
            | (f >= span)
            | (g >= span)
            | (h >= span)
        ):
            break
        table[0, a] += 1
        table[1, b] += 1
        table[2, c] += 1
        table[3, d] += 1
        table[4, e] += 1
        table[5, f] += 1
        table[6, g] += 1
        table[7, h] += 1
        i += 8
    return i


@kernel
def count_dense(flat, low, table):
    """Count integers that lie close together.

    flat   integers [n] that int64 can hold
    low    the id of the table's first column
    table  int64 [COUNTERS, span], to whose rows together the counts of the ids from `low` on are added

    Returns how many integers were counted: n, or the place of the first one that the table has no room for.

    A run goes on while whole words equal it, and ends where the first one that does not differs from it.
    Where more than nine runs end within 64 pixels there are none to speak of, and the next 2048 pixels are
    counted one by one, into several rows: increments of one counter wait for each other.
    """
    n = len(flat)
    bits = 8 * flat.itemsize
    inside = 64 // bits
    every = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits)
    each = np.uint64(0xFFFFFFFFFFFFFFFF) // every
    span = np.uint64(table.shape[1])
    # Up to here the run's first word and the eight after it lie within the array.
    last = n - 9 * inside
    i = 0
    while i < last:
        value = flat[i]
        at = np.uint64(np.int64(value) - low)
        if at >= span:
            return i
        begin = i
        near = i + 64
        ends = 0
        while i < last:
            pattern = (np.uint64(value) & every) * each
            differs = word(flat, i) ^ pattern
            if differs == 0:
                i += inside
                if _all_equal(flat, i, inside, pattern):
                    i += 8 * inside
                continue
            i += np.int64(trailing_zeros(differs)) // bits
            table[0, at] += i - begin
            begin = i
            if i >= near:
                near = i + 64
                ends = 0
            ends += 1
            if ends > 9:
                break
            value = flat[i]
            at = np.uint64(np.int64(value) - low)
            if at >= span:
                return i
        table[0, at] += i - begin
        if ends > 9:
            i = _count_singly(flat, i, min(i + 2048, last), low, table)
    while i < n:
        at = np.uint64(np.int64(flat[i]) - low)
        if at >= span:
            return i
        table[0, at] += 1
        i += 1
    return n


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
