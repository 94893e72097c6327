"""Sizes of the arrays on which the compiled loops work."""

IDS = 256
"""Counters of a column of tiles, for the ids 0 … 255; label maps with other ids are counted tile by tile."""

COUNTERS = 8
"""Counters per id in a dense table: consecutive pixels use different ones, so that no addition waits."""

BYTE_COUNTERS = 16 * 256
"""Counters of bytes that are counted one by one: 16 tables, so that no addition waits."""

NOISE_PIXELS = 2048
"""Pixels that are counted one by one after noise was detected, before the loop tries runs again."""
