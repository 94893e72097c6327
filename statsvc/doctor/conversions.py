"""Findings about ids that a conversion changed: interpolation, grayscale, byte order or sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes import palettes
from statsvc.common.plurals import plural, plural_with_verb
from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.facts import MAX_PLAUSIBLE_ID, UNSIGNED_MINUS_ONE
from statsvc.doctor.finding import SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.classes.palettes import Palette
    from statsvc.doctor.facts import Facts

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

MIN_EDGE_IDS = 32
"""Number of ids that occur only at edges from which interpolation is the likely cause."""

EDGE_IDS_SHARE = 0.75
"""Share of all ids that these must have."""

MIN_EDGE_IDS_IN_FILE = 4
"""Number of these ids in a label map from which the finding names it."""

MIN_GRAY_IDS = 3
"""Number of ids below which grayscale values of a palette cannot be recognized."""

MIN_HIGHEST_GRAY = 64
"""Highest id below which the ids are probably class ids, not brightness values."""

MAX_COLORS = 40
"""Palettes with more colors are skipped, because their gray values include nearly every value."""

MAX_COINCIDENCE = 1e-3
"""Highest probability of ids being gray values of a palette by coincidence that is reported."""

TORCH_IGNORE = -100
"""Default ignore_index of the losses in Torch, not the id 156 with a wrong sign."""


def edge_ids(facts: Facts) -> Bool:
    """Return the ids, bool [K], that interpolation probably created: many ids, each only at edges."""
    extremes = np.isin(facts.raw_ids, (0, 255))
    ids = facts.never_area & (facts.pixels > 0) & ~extremes & ~facts.flagged_ids("photo")
    if ids.sum() < MIN_EDGE_IDS or ids.sum() < EDGE_IDS_SHARE * (facts.pixels > 0).sum():
        return np.zeros_like(ids)
    return ids


def interpolated(facts: Facts) -> Finding | None:
    """Return a finding about resized or anti-aliased label maps: many ids that occur only at edges.

    Reads the rows a second time, to name the files, if there are such ids.
    """
    ids = edge_ids(facts)
    if not ids.any():
        return None
    rows, start = np.zeros(len(facts.files.path), bool), 0
    for block in facts.table.blocks():
        stop = start + len(block.path)
        rows[start:stop] = (block.counts[:, ids] > 0).sum(axis=1) >= MIN_EDGE_IDS_IN_FILE
        start = stop
    share = int(facts.pixels[ids].sum()) / facts.pixels.sum(dtype=np.float64)
    return Finding(
        "interpolated",
        SERIOUS,
        f"{int(ids.sum())} of {plural(int((facts.pixels > 0).sum()), 'id')} cover less than 1 % of every "
        f"label map ({list_first(facts.raw_ids[ids])}; {share:.3%} of all pixels). They are blends of other "
        "ids at edges, which resizing or anti-aliasing creates, and are not classes.",
        "Export the label maps again. Resize them with nearest neighbor, and draw masks without "
        "anti-aliasing.",
        facts.files.first_paths(rows),
        int(rows.sum()),
        tuple(facts.raw_ids[ids].tolist()),
        facts.change_without(np.where(ids, facts.pixels, 0)),
    )


def greyed_colours(facts: Facts) -> Finding | None:
    """Return a finding about color-coded label maps that were converted to grayscale.

    It applies if every id is the gray value of a color of one palette, and a coincidence is unlikely.
    """
    configuration = facts.table.configuration
    if configuration.class_map is not None or configuration.counting.rule != VALUE:
        return None
    ids = facts.raw_ids[(facts.pixels > 0) & ~edge_ids(facts) & ~np.isin(facts.raw_ids, (0, 255))]
    if len(ids) < MIN_GRAY_IDS or ids.max() < MIN_HIGHEST_GRAY or ids.max() < 2 * len(ids):
        return None
    for name in palettes.BUILTIN:
        palette = palettes.find(name, files=False)
        if palette is None or len(palette.colors) > MAX_COLORS:
            continue
        grays = _gray_values(palette)
        if not set(ids.tolist()) <= grays or (len(grays) / 256) ** len(ids) > MAX_COINCIDENCE:
            continue
        rows = facts.ids_per_sample > 1
        return Finding(
            "greyed_colours",
            SERIOUS,
            f"Every id ({list_first(ids)}) is the brightness of a color in the palette {name}. The label "
            "maps were probably converted from color to grayscale, so their ids are not class ids.",
            f"Scan the original color files with --rule {name}, or palette files, whose indices are "
            "class ids.",
            facts.files.first_paths(rows),
            int(rows.sum()),
            tuple(ids.tolist()),
        )
    return None


def _gray_values(palette: Palette) -> set[int]:
    """Return the gray values of a palette's colors by ITU-R 601-2, as Pillow and as OpenCV round them."""
    grays: set[int] = set()
    for red, green, blue, _ in palette.colors:
        grays.add((red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16)
        grays.add((red * 4899 + green * 9617 + blue * 1868 + (1 << 13)) >> 14)
    return grays


def swapped_bytes(facts: Facts) -> Finding | None:
    """Return a finding about 16-bit or 32-bit ids in the wrong byte order: all are multiples of 256."""
    rows = facts.flagged["swapped"]
    if not rows.any() or facts.table.configuration.counting.rule != VALUE:
        return None
    swapped_pixels = facts.flagged_pixels["swapped"]
    ids = facts.raw_ids[(swapped_pixels > 0) & (facts.raw_ids != 0)]
    interpretation = facts.interpretation
    if facts.table.configuration.class_map is not None and (interpretation.class_of(ids) >= 0).any():
        return None
    corrected = np.where(np.abs(ids) < 2**16, (ids & 0xFFFF) >> 8, (ids & 0xFFFFFFFF) >> 24)
    other_pixels = facts.pixels - np.where(facts.raw_ids != 0, swapped_pixels, 0)
    after = facts.class_pixels(other_pixels) + interpretation.class_pixels(
        corrected, swapped_pixels[np.isin(facts.raw_ids, ids)]
    )
    count = int(rows.sum())
    return Finding(
        "swapped_bytes",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'contains', 'contain')} only multiples of 256 "
        f"({list_first(ids)}). In the other byte order they are {list_first(corrected)}.",
        "Write these files again in the byte order that their header declares (NumPy: array.astype('<u2')). "
        "If they contain instance ids, class × 256, count them with --rule 'id // 256'.",
        facts.files.first_paths(rows),
        count,
        tuple(ids.tolist()),
        interpretation.largest_change(facts.class_pixels(), after),
    )


def wrong_sign(facts: Facts) -> Finding | None:
    """Return a finding about ids stored in a type of the wrong sign: 65535 for −1, −56 for 200."""
    configuration = facts.table.configuration
    if configuration.counting.rule != VALUE:
        return None
    class_of, occurs = facts.interpretation.class_of(facts.raw_ids), facts.pixels > 0
    unsigned = occurs & np.isin(facts.raw_ids, UNSIGNED_MINUS_ONE)
    has_high_ids = (occurs & (facts.raw_ids > MAX_PLAUSIBLE_ID) & ~unsigned).any()
    if has_high_ids or configuration.class_map is not None:
        unsigned &= False
    signed = occurs & (facts.raw_ids < -1) & (facts.raw_ids >= -128) & (facts.raw_ids != TORCH_IGNORE)
    signed &= class_of < 0
    signed &= ~np.isin(facts.raw_ids, configuration.ignore_index or ())
    affected = unsigned | signed
    if not affected.any():
        return None
    ids, pixels = facts.raw_ids[affected], int(facts.pixels[affected].sum())
    corrections = [f"{i} is −1 in {i.bit_length()} bits" for i in facts.raw_ids[unsigned].tolist()]
    corrections += [f"{i} is {i + 256} in 8 bits" for i in facts.raw_ids[signed].tolist()]
    corrected = np.where(signed, facts.raw_ids + 256, np.where(unsigned, -1, facts.raw_ids))
    return Finding(
        "wrong_sign",
        SERIOUS,
        f"{plural_with_verb(pixels, 'pixel', 'has', 'have')} an id with the wrong sign: "
        f"{list_first(corrections, 4)}. They count for the wrong class, or not at all.",
        "Write the label maps in a type that represents their ids (uint8 for 0 to 255), or ignore these ids "
        f"with --ignore-index {','.join(map(str, ids[:4].tolist()))}.",
        facts.paths_with(ids),
        int(facts.images[affected].max()),
        tuple(ids.tolist()),
        facts.interpretation.largest_change(
            facts.class_pixels(), facts.interpretation.class_pixels(corrected, facts.pixels)
        ),
    )
