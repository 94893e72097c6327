"""Compiled loops over arrays of ids, counted run by run.

A label map is nearly all long runs of one id. A word of eight bytes is looked at at once: where it continues
the run, which one comparison tells, nothing else happens.

The loops never look beyond the lengths of the arrays that they are given, whatever these hold.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import all_equal, item_bits, kernel, of_bytes, trailing_zeros, word


@kernel
def _count_bytes(flat, i, end, counts):
    """Count the bytes flat[i:end], rounded down to eights, one by one; return where it stopped.

    counts  int64 [256 * 8], eight of each id: each byte of a word has its own
    """
    place = np.uint64(0xFF << 3)
    while i + 8 <= end:
        eight = word(flat, i)
        counts[(eight << np.uint64(3)) & place] += 1
        counts[(eight >> np.uint64(5)) & place | np.uint64(1)] += 1
        counts[(eight >> np.uint64(13)) & place | np.uint64(2)] += 1
        counts[(eight >> np.uint64(21)) & place | np.uint64(3)] += 1
        counts[(eight >> np.uint64(29)) & place | np.uint64(4)] += 1
        counts[(eight >> np.uint64(37)) & place | np.uint64(5)] += 1
        counts[(eight >> np.uint64(45)) & place | np.uint64(6)] += 1
        counts[(eight >> np.uint64(53)) & place | np.uint64(7)] += 1
        i += 8
    return i


@kernel
def _narrowed(ids, low, places):
    """Write ids, less `low`, to as many bytes; return whether each fits in one."""
    together = np.uint64(0)
    for k in range(len(places)):
        place = np.uint64(np.int64(ids[k]) - low)
        together |= place
        places[k] = np.uint8(place)
    return together < 256


@kernel
def _count_singly(flat, i, end, low, span, counts):
    """Count flat[i:end], rounded down to eights, one by one; return where it stopped, as `count_dense`."""
    three = np.uint64(3)
    while i + 8 <= end:
        a = np.uint64(np.int64(flat[i]) - low)
        b = np.uint64(np.int64(flat[i + 1]) - low)
        c = np.uint64(np.int64(flat[i + 2]) - low)
        d = np.uint64(np.int64(flat[i + 3]) - low)
        e = np.uint64(np.int64(flat[i + 4]) - low)
        f = np.uint64(np.int64(flat[i + 5]) - low)
        g = np.uint64(np.int64(flat[i + 6]) - low)
        h = np.uint64(np.int64(flat[i + 7]) - low)
        # One comparison for all eight: `span` is a power of two, so that a bit above it tells of any.
        if (a | b | c | d | e | f | g | h) >= span:
            break
        counts[a << three] += 1
        counts[b << three | np.uint64(1)] += 1
        counts[c << three | np.uint64(2)] += 1
        counts[d << three | np.uint64(3)] += 1
        counts[e << three | np.uint64(4)] += 1
        counts[f << three | np.uint64(5)] += 1
        counts[g << three | np.uint64(6)] += 1
        counts[h << three | np.uint64(7)] += 1
        i += 8
    return i


@kernel
def count_dense(flat, low, table):
    """Count integers that lie close together.

    flat   integers [n] that int64 can hold
    low    the id of the table's first row
    table  int64 [span, 8], to whose rows the counts of the ids from `low` on are added, an id's count being
           the sum of its row; `span` is a power of two

    Returns how many integers were counted: n, or the place of the first one that the table has no room for.

    A run goes on while whole words equal it, and ends where the first one that does not differs from it.
    Where more than nine runs end within 64 pixels there are none to speak of, and the next 2048 pixels are
    counted one by one, into several counts of each id: increments of one counter wait for each other. Wider
    ids than bytes become bytes first, where all 2048 lie in a table of 256.
    """
    n = len(flat)
    bits = item_bits(flat)
    inside = 64 // bits
    every = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits)
    each = np.uint64(0xFFFFFFFFFFFFFFFF) // every
    span = np.uint64(table.shape[0])
    counts = table.reshape(table.size)
    narrow = np.empty(2048, np.uint8)
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
                if all_equal(flat, i, inside, pattern):
                    i += 8 * inside
                continue
            i += np.int64(trailing_zeros(differs)) // bits
            counts[at << np.uint64(3)] += i - begin
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
        counts[at << np.uint64(3)] += i - begin
        if ends > 9:
            stop = min(i + 2048, last)
            if of_bytes(flat) and low == 0 and span == 256:
                i = _count_bytes(flat, i, stop, counts)
            elif span == 256 and stop - i == 2048 and _narrowed(flat[i:stop], low, narrow):
                i += _count_bytes(narrow, 0, 2048, counts)
            else:
                i = _count_singly(flat, i, stop, low, span, counts)
    while i < n:
        at = np.uint64(np.int64(flat[i]) - low)
        if at >= span:
            return i
        counts[at << np.uint64(3)] += 1
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
