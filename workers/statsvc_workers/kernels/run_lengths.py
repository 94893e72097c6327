"""Compiled loops that count arrays of ids, run by run. NOTES.md derives every step.

A label map consists of long runs of one id. The loops compare words of eight bytes: while a word continues
the run, one comparison is all the work.

No input makes a loop access memory outside its arrays.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import all_equal, item_bits, kernel, of_bytes, trailing_zeros, word

WINDOW = 64
"""Pixels over which `count_dense` counts the ends of runs, to detect noise."""

MAX_RUN_ENDS = 9
"""If more runs than this end within a window, the pixels are treated as noise."""

NOISE_PIXELS = 2048
"""Pixels that are counted one by one after noise was detected, before the loop tries runs again."""


@kernel
def count_bytes(flat, i, end, counts):
    """Count the bytes flat[i:end] one by one, in groups of eight; return the index after the last group.

    counts  int64 [256 * 8]: eight counters per id, one for each byte of a word
    """
    # Byte k of the word is an id with the counter id * 8 + k: the shifts move the byte to bits 3 to 10.
    row_bits = np.uint64(0xFF << 3)
    while i + 8 <= end:
        eight = word(flat, i)
        counts[(eight << np.uint64(3)) & row_bits] += 1
        counts[(eight >> np.uint64(5)) & row_bits | np.uint64(1)] += 1
        counts[(eight >> np.uint64(13)) & row_bits | np.uint64(2)] += 1
        counts[(eight >> np.uint64(21)) & row_bits | np.uint64(3)] += 1
        counts[(eight >> np.uint64(29)) & row_bits | np.uint64(4)] += 1
        counts[(eight >> np.uint64(37)) & row_bits | np.uint64(5)] += 1
        counts[(eight >> np.uint64(45)) & row_bits | np.uint64(6)] += 1
        counts[(eight >> np.uint64(53)) & row_bits | np.uint64(7)] += 1
        i += 8
    return i


@kernel
def narrowed(ids, low, narrow):
    """Write ids minus `low` to uint8 `narrow`; return whether all of them fit into a byte."""
    all_bits = np.uint64(0)
    for k in range(len(narrow)):
        offset = np.uint64(np.int64(ids[k]) - low)
        all_bits |= offset
        narrow[k] = np.uint8(offset)
    return all_bits < 256


@kernel
def _count_singly(flat, i, end, low, span, counts):
    """Count flat[i:end] one by one, in groups of eight, with the arguments of `count_dense`.

    Returns the index after the last group, which may be the first group with an id outside the table.
    """
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
        # One comparison for all eight: `span` is a power of two, so an id outside sets a bit at or above it.
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
    """Count integers of a narrow range in a table.

    flat   integers [n] within int64
    low    id of the first row of the table
    table  int64 [span, 8], to which counts are added; the count of id `low + k` is the sum of row k; `span`
           is a power of two

    Returns the number of integers counted: n, or the index of the first id outside the table.

    A run continues while whole words equal it; its end is the first byte that differs, found by counting
    trailing zeros. If more than `MAX_RUN_ENDS` runs end within `WINDOW` pixels, the next `NOISE_PIXELS`
    pixels are counted one by one. Consecutive pixels then use different counters of an id, because an
    increment of a counter waits for the previous one. Ids wider than a byte are first converted to bytes if
    they fit.
    """
    n = len(flat)
    bits = item_bits(flat)
    inside = 64 // bits
    every = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits)
    each = np.uint64(0xFFFFFFFFFFFFFFFF) // every
    span = np.uint64(table.shape[0])
    counts = table.reshape(table.size)
    narrow = np.empty(NOISE_PIXELS, np.uint8)
    # Before this index, the first word of a run and the eight words after it are inside the array.
    last = n - 9 * inside
    i = 0
    while i < last:
        value = flat[i]
        row = np.uint64(np.int64(value) - low)
        if row >= span:
            return i
        begin = i
        window_end = i + WINDOW
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
            counts[row << np.uint64(3)] += i - begin
            begin = i
            if i >= window_end:
                window_end = i + WINDOW
                ends = 0
            ends += 1
            if ends > MAX_RUN_ENDS:
                break
            value = flat[i]
            row = np.uint64(np.int64(value) - low)
            if row >= span:
                return i
        counts[row << np.uint64(3)] += i - begin
        if ends > MAX_RUN_ENDS:
            stop = min(i + NOISE_PIXELS, last)
            if of_bytes(flat) and low == 0 and span == 256:
                i = count_bytes(flat, i, stop, counts)
            elif span == 256 and stop - i == NOISE_PIXELS and narrowed(flat[i:stop], low, narrow):
                i += count_bytes(narrow, 0, NOISE_PIXELS, counts)
            else:
                i = _count_singly(flat, i, stop, low, span, counts)
    while i < n:
        row = np.uint64(np.int64(flat[i]) - low)
        if row >= span:
            return i
        counts[row << np.uint64(3)] += 1
        i += 1
    return n


@kernel
def count_sparse(flat, ids, counts):
    """Count integers of a wide range in a hash table with linear probing.

    flat    integers [n], n at least 1
    ids     int64 [2**k], the id of each slot; only slots with a positive count are in use
    counts  int64 [2**k], the count of each slot

    Returns the number of ids in the table, or -1 as soon as they fill half of it.
    """
    mask = np.uint64(len(ids) - 1)
    filled = 0
    for k in range(len(counts)):
        if counts[k] > 0:
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
        key = np.int64(value)
        # Fibonacci hashing: the high bits of the product with 2**64 divided by the golden ratio.
        slot = ((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & mask
        while counts[slot] > 0 and ids[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if counts[slot] == 0:
            if 2 * (filled + 1) > len(ids):
                return -1
            ids[slot] = key
            filled += 1
        counts[slot] += run
    return filled
