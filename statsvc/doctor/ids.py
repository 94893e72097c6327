"""Findings about ids: what numbers in the label maps are probably not the classes they are taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes import palettes
from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.facts import UNSIGNED_MINUS_ONE
from statsvc.doctor.finding import NAMED, NOTICE, SERIOUS, Finding, listed, plural, subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.classes.palettes import Palette
    from statsvc.doctor.facts import Facts

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

FRINGE = 32
"""Ids that are nowhere more than an edge, from which there are too many: interpolation makes them."""

FRINGE_SHARE = 0.75
"""Share of all ids that these must be."""

FRINGE_IN_FILE = 4
"""How many of these a label map has that is named."""

FEW_COLOURS = 40
"""Palettes of more colours are passed over: their grey values are nearly all there are."""


CHANCE = 1e-3
"""How likely ids may be the brightness of a palette's colours by chance, and still be called so."""

TORCH_IGNORE = -100
"""What Torch's losses ignore by default: a mark, and not 156 with a wrong sign."""


def binary_masks(facts: Facts) -> Finding | None:
    """Masks of 0 and 255 where 255 is ignored: nothing of what they mark is counted."""
    rows, inside = facts.flagged["mask"], facts.flagged_pixels["mask"]
    white = facts.raw_ids == 255
    others = (facts.pixels - inside)[white].sum()
    if not rows.any() or others or facts.basis.place(np.array([255]))[0] >= 0:
        return None
    whole = facts.pixels[(facts.raw_ids != 0) & ~white].sum() == 0
    number, count = int(inside[white].sum()), int(rows.sum())
    before = np.zeros(max(2, facts.basis.classes), np.int64)
    before[: facts.basis.classes] = facts.class_pixels()
    mended = before.copy()
    mended[1] += number
    return Finding(
        "binary_masks",
        SERIOUS,
        f"{subject(count, 'file', 'holds', 'hold')} 0 and 255 alone, and 255 is ignored: the "
        f"{plural(number, 'pixel')} that the masks mark are not counted",
        "read 255 as class 1 with --class-map binary"
        if whole
        else "leave these masks out with --pattern, or write them with the ids of the other files",
        facts.files.named(rows),
        count,
        (255,),
        facts.basis.moved(before, mended),
    )


def fringe(facts: Facts) -> Bool:
    """Return which ids, bool [K], are probably made by interpolation: many, and nowhere more than an edge."""
    ends = np.isin(facts.raw_ids, (0, 255))
    found = facts.never_big & (facts.pixels > 0) & ~ends
    if found.sum() < FRINGE or found.sum() < FRINGE_SHARE * (facts.pixels > 0).sum():
        return np.zeros_like(found)
    return found


def interpolated(facts: Facts) -> Finding | None:
    """Resized or anti-aliased label maps: many ids that occur as thin edges only.

    Goes over the rows again to name the files, which happens only where there are such ids.
    """
    ids = fringe(facts)
    if not ids.any():
        return None
    rows, start = np.zeros(len(facts.files.path), bool), 0
    for block in facts.table.blocks():
        stop = start + len(block.path)
        rows[start:stop] = (block.counts[:, ids] > 0).sum(axis=1) >= FRINGE_IN_FILE
        start = stop
    pixels, count = int(facts.pixels[ids].sum()), int(rows.sum())
    share = pixels / facts.pixels.sum(dtype=np.float64)
    return Finding(
        "interpolated",
        SERIOUS,
        f"{int(ids.sum())} of {plural(int((facts.pixels > 0).sum()), 'id')} nowhere cover 1 % of a label map "
        f"({listed(facts.raw_ids[ids])}; {share:.3%} of all pixels): edges that were blended",
        "resize label maps with nearest neighbour, draw masks without anti-aliasing, and write them again "
        "from where they came",
        facts.files.named(rows),
        count,
        tuple(facts.raw_ids[ids].tolist()),
        facts.moved_without(np.where(ids, facts.pixels, 0)),
    )


def greyed_colours(facts: Facts) -> Finding | None:
    """Colour-coded label maps that were converted to grey: ids are the brightness of a palette's colours."""
    configuration = facts.table.configuration
    if configuration.class_map is not None or configuration.counting.rule != VALUE:
        return None
    ids = facts.raw_ids[(facts.pixels > 0) & ~fringe(facts) & ~np.isin(facts.raw_ids, (0, 255))]
    if len(ids) < 3 or ids.max() < 64 or ids.max() < 2 * len(ids):
        return None
    for name in palettes.BUILTIN:
        palette = palettes.find(name, files=False)
        if palette is None or len(palette.colours) > FEW_COLOURS:
            continue
        greys = _greys(palette)
        if not set(ids.tolist()) <= greys or (len(greys) / 256) ** len(ids) > CHANCE:
            continue
        return Finding(
            "greyed_colours",
            SERIOUS,
            f"every id ({listed(ids)}) is the brightness of a colour of the palette {name}: colours "
            "converted to grey",
            f"scan the colour files themselves with --rule {name}, or palette files, whose indices are ids",
            facts.files.named(facts.ids_in > 1),
            int((facts.ids_in > 1).sum()),
            tuple(ids.tolist()),
        )
    return None


def _greys(palette: Palette) -> set[int]:
    """Return the grey values of a palette's colours by ITU-R 601-2, as Pillow and as OpenCV round them."""
    found: set[int] = set()
    for red, green, blue, _ in palette.colours:
        found.add((red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16)
        found.add((red * 4899 + green * 9617 + blue * 1868 + (1 << 13)) >> 14)
    return found


def swapped_bytes(facts: Facts) -> Finding | None:
    """Ids of 16 or 32 bits read in the other byte order: all are multiples of 256."""
    rows = facts.flagged["swapped"]
    if not rows.any() or facts.table.configuration.counting.rule != VALUE:
        return None
    inside = facts.flagged_pixels["swapped"]
    ids = facts.raw_ids[(inside > 0) & (facts.raw_ids != 0)]
    if facts.table.configuration.class_map is not None and (facts.basis.place(ids) >= 0).any():
        return None
    right = np.where(np.abs(ids) < 2**16, (ids & 0xFFFF) >> 8, (ids & 0xFFFFFFFF) >> 24)
    before = facts.class_pixels()
    other = facts.pixels - np.where(facts.raw_ids != 0, inside, 0)
    mended = facts.class_pixels(other) + facts.basis.pixels(right, inside[np.isin(facts.raw_ids, ids)])
    return Finding(
        "swapped_bytes",
        SERIOUS,
        f"{subject(int(rows.sum()), 'file', 'holds', 'hold')} multiples of 256 alone ({listed(ids)}), which "
        f"in the other byte order are {listed(right)}",
        "write these files again in the byte order that their header says (NumPy: array.astype('<u2')); if "
        "they hold instance ids, class times 256, count them with --rule 'id // 256'",
        facts.files.named(rows),
        int(rows.sum()),
        tuple(ids.tolist()),
        facts.basis.moved(before, mended),
    )


def wrong_sign(facts: Facts) -> Finding | None:
    """Signed numbers read as unsigned or the other way: 65535 for −1, −56 for 200."""
    if facts.table.configuration.counting.rule != VALUE:
        return None
    place, there = facts.basis.place(facts.raw_ids), facts.pixels > 0
    # Ids up to 1000 are plausible; what else there is beyond them makes 65535 one of many.
    marks = there & np.isin(facts.raw_ids, UNSIGNED_MINUS_ONE)
    if (there & (facts.raw_ids > 1000) & ~marks).any() or facts.table.configuration.class_map is not None:
        marks &= False
    negative = there & (facts.raw_ids < -1) & (facts.raw_ids >= -128) & (facts.raw_ids != TORCH_IGNORE)
    negative &= place < 0
    negative &= ~np.isin(facts.raw_ids, facts.table.configuration.ignore_index or ())
    which = marks | negative
    if not which.any():
        return None
    ids = facts.raw_ids[which]
    meant = [f"{i} is −1 in {i.bit_length()} bits" for i in facts.raw_ids[marks].tolist()]
    meant += [f"{i} is {i + 256} in 8 bits" for i in facts.raw_ids[negative].tolist()]
    right = np.where(negative, facts.raw_ids + 256, np.where(marks, -1, facts.raw_ids))
    return Finding(
        "wrong_sign",
        SERIOUS,
        f"ids that are others with the right sign: {listed(meant, 4)}; "
        f"{plural(int(facts.pixels[which].sum()), 'pixel')}",
        "write the label maps with a type that holds their ids (uint8 for 0 to 255), or ignore these ids: "
        f"--ignore-index {','.join(map(str, ids[:4].tolist()))}",
        _examples(facts, ids),
        int(facts.images[which].max()),
        tuple(ids.tolist()),
        facts.basis.moved(facts.class_pixels(), facts.basis.pixels(right, facts.pixels)),
    )


def two_voids(facts: Facts) -> Finding | None:
    """−1 and 255 in one dataset: both are ignored here, but a loss ignores one id."""
    ids = np.array([-1, 255])
    at = np.flatnonzero(np.isin(facts.raw_ids, ids) & (facts.pixels > 0))
    if len(at) < 2 or (facts.basis.place(ids) >= 0).any() or facts.table.configuration.class_map is not None:
        return None
    pixels = facts.pixels[at].tolist()
    return Finding(
        "two_voids",
        NOTICE,
        f"both −1 ({plural(pixels[0], 'pixel')}) and 255 ({plural(pixels[1], 'pixel')}) mark what is ignored",
        "nothing for the weights; a loss has one ignore_index, so set label[label < 0] = 255 before training",
        _examples(facts, ids),
        int(facts.images[at].max()),
        (-1, 255),
    )


def unexpected(facts: Facts, explained: set[int]) -> Finding | None:
    """Ids that are neither classes nor ignored, and that no other finding explains."""
    place = facts.basis.place(facts.raw_ids)
    mapped, known = facts.raw_ids, np.ones(len(place), bool)
    if (class_map := facts.basis.read.class_map) is not None:
        mapped, known = class_map.apply(facts.raw_ids)
    ignored = known & np.isin(mapped, np.array(facts.basis.read.ignore, np.int64))
    which = (place < 0) & (facts.pixels > 0) & ~ignored & ~np.isin(facts.raw_ids, list(explained))
    if not which.any():
        return None
    ids, pixels = facts.raw_ids[which], facts.pixels[which]
    before = facts.class_pixels()
    after = np.concatenate([before, pixels])
    weights = facts.basis.weights(after)
    most = np.argsort(-pixels, kind="stable")
    coloured = facts.table.configuration.counting.palette is not None
    names = [
        f"id {one}"
        if not coloured or (colour := palettes.unknown_colour(one)) is None
        else f"colour {colour}"
        for one in ids.tolist()
    ]
    each = [
        f"{names[k]}: {plural(int(pixels[k]), 'pixel')}"
        + ("" if weights is None else f", as a class of weight {weights[len(before) + k]:.3g}")
        for k in most.tolist()
    ]
    return Finding(
        "unexpected_ids",
        SERIOUS,
        f"{subject(len(ids), 'id', 'is', 'are')} neither class nor ignored, and not "
        f"counted: {listed(each, 4)}",
        "add the colours to the palette and scan under another name"
        if coloured
        else "ignore them with --ignore-index, make them classes with --num-classes, or give them a place in "
        "the class map",
        _examples(facts, ids[most]),
        int(facts.images[which].max()),
        tuple(ids.tolist()),
        facts.basis.moved(np.concatenate([before, np.zeros_like(pixels)]), after, len(before)),
    )


def _examples(facts: Facts, ids: Int64) -> tuple[str, ...]:
    """Return samples with these ids, one of each first."""
    rows = [facts.examples.get(int(raw_id), []) for raw_id in ids]
    order = [group[k] for k in range(NAMED) for group in rows if k < len(group)]
    return facts.files.named(np.array(list(dict.fromkeys(order)), np.int64))
