"""Compiled loops that count arrays of ids, run by run. NOTES.md derives every step.

A label map consists of long runs of one id. The loops compare `LANES` pixels with their right neighbors in
one step: while a run continues, one comparison is all the work.

No input makes a loop access memory outside its arrays.
"""

from __future__ import annotations

import numpy as np

from statsvc_workers.kernels.numba_support import (
    LANES,
    kernel,
    of_bytes,
    ones,
    run_ends,
    trailing_zeros,
    word,
)
from statsvc_workers.kernels.sizes import NOISE_PIXELS

MAX_RUN_ENDS = 13
"""If more runs than this end within `LANES` pixels, the pixels are treated as noise."""

MOST_PENDING = 1 << 31
"""Most pixels that `count_bytes` counts before its counters, uint32, are added to a table."""


@kernel
def count_bytes(flat, i, end, counters):
    """Count the bytes flat[i:end] one by one, in groups of 16; return the index after the last group.

    counters  uint32 [16 * 256]: byte k of a group is counted in table k, because an increment of a counter
              waits for the previous one
    """
    while i + 16 <= end:
        first = word(flat, i)
        second = word(flat, i + 8)
        for k in range(8):
            shift = np.uint64(8 * k)
            counters[np.uint64(256 * k) + ((first >> shift) & np.uint64(0xFF))] += np.uint32(1)
            counters[np.uint64(256 * (8 + k)) + ((second >> shift) & np.uint64(0xFF))] += np.uint32(1)
        i += 16
    return i


@kernel
def move_counts(counters, counts, base, step):
    """Add the counters of `count_bytes` to counts[base + step * id], and set them to zero."""
    totals = counters[:256]  # cannot overflow: all counters together hold fewer than 2 ** 32 pixels
    for k in range(1, 16):
        part = counters[256 * k : 256 * (k + 1)]
        for byte in range(256):
            totals[byte] += part[byte]
            part[byte] = 0
    for byte in range(256):
        counts[base + step * byte] += np.int64(totals[byte])
        totals[byte] = 0


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
        # One comparison for all eight: `span` is a power of two, so an id outside sets a bit at or above it.
        bits = np.uint64(0)
        for k in range(8):
            bits |= np.uint64(np.int64(flat[i + k]) - low)
        if bits >= span:
            break
        for k in range(8):
            counts[np.uint64(np.int64(flat[i + k]) - low) << three | np.uint64(k)] += 1
        i += 8
    return i


@kernel
def count_dense(flat, low, counts, counters, narrow):
    """Count integers of a narrow range in a table.

    flat      integers [n] within int64
    low       id of the first row of the table
    counts    int64 [span * 8], the table, row by row, to which counts are added; the count of id `low + k` is
              the sum of row k; `span` is a power of two
    counters  uint32 [16 * 256] of zeros; zeros on return
    narrow    uint8 [NOISE_PIXELS], of any content

    Returns the number of integers counted: n, or the index of the first id outside the table.

    Runs end where a pixel differs from the next one. If more than `MAX_RUN_ENDS` of `LANES` pixels do,
    `NOISE_PIXELS` pixels are counted one by one. Consecutive pixels then use different counters of an id,
    because an increment of a counter waits for the previous one. Ids wider than a byte are first converted to
    bytes if they fit.
    """
    n = len(flat)
    if n == 0:
        return np.int64(0)
    span = np.uint64(len(counts)) >> np.uint64(3)
    octets = flat.view(np.uint8)
    pending = 0
    # numba compiles functions again for literal arguments, which NumPy's integers are not.
    i = zero = np.int64(0)
    begin = zero  # of the run to which flat[i] belongs
    row = np.uint64(np.int64(flat[0]) - low)  # the row of flat[i]
    outside = row >= span
    while not outside and i + LANES < n:
        ends = run_ends(flat, i)
        if ends == 0:
            i += LANES
            continue
        if ones(ends) > MAX_RUN_ENDS:
            counts[row << np.uint64(3)] += i - begin
            begin = i
            stop = i + NOISE_PIXELS if i + NOISE_PIXELS < n else n - 1
            if of_bytes(flat) and low == 0 and span == 256:
                i = count_bytes(octets, i, stop, counters)
            elif span == 256 and stop - i == NOISE_PIXELS and narrowed(flat[i:stop], low, narrow):
                i += count_bytes(narrow, zero, stop - i, counters)
            else:
                i = _count_singly(flat, i, stop, low, span, counts)
            if i > begin:  # else the end of the array, or an id outside the table, is near
                if span == 256:
                    pending += i - begin
                if pending > MOST_PENDING:
                    move_counts(counters, counts, zero, np.int64(8))
                    pending = 0
                begin = i
                row = np.uint64(np.int64(flat[i]) - low)
                outside = row >= span
                continue
        while ends != 0 and not outside:
            end = i + 1 + np.int64(trailing_zeros(ends))
            ends &= ends - np.uint64(1)  # without its lowest bit
            counts[row << np.uint64(3)] += end - begin
            begin = end
            row = np.uint64(np.int64(flat[end]) - low)
            outside = row >= span
        i += LANES
    if outside:
        i = begin
    else:
        counts[row << np.uint64(3)] += i - begin
        while i < n:
            row = np.uint64(np.int64(flat[i]) - low)
            if row >= span:
                break
            counts[row << np.uint64(3)] += 1
            i += 1
    if pending > 0:
        move_counts(counters, counts, zero, np.int64(8))
    return i


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
