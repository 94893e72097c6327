"""Findings about ids: values in the label maps that are probably not the class ids they are taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes import palettes
from statsvc.dataset.counting_rule import VALUE
from statsvc.doctor.facts import MASK_SHARE, UNSIGNED_MINUS_ONE
from statsvc.doctor.finding import (
    MAX_FILES,
    NOTICE,
    SERIOUS,
    Finding,
    list_first,
    plural,
    plural_with_verb,
)

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

MAX_PLAUSIBLE_ID = 1000
"""Ids up to this are plausible class ids. With higher ids in use, 65535 can be one of them."""

SPARSE_IDS = 10
"""How many times as many ids as occur lie below the highest one where ids number objects."""

NUMBERED_SHARE = 0.95
"""Share of files with the ids 1 … k from which the ids number objects."""

MIN_NUMBERS = 5
"""Different numbers of objects per file below which ids 1 … k may be classes."""

MIN_OBJECTS = 16
"""Number of ids in one file up to which ids 1 … k may be classes."""

NODATA = (99, 127, 254, 999, 9999, 2**15 - 1, 2**31 - 1)
"""Usual values of pixels without data; 65535 and 4294967295 are findings of `wrong_sign`."""

MIN_REDUCED = 3
"""Files with, and without, 255 below which their frequencies are not compared."""

MIN_SIMILARITY, MAX_SIMILARITY = 0.8, 0.6
"""Share that the distributions of files with and without 255 have in common: shifted by 1, and as stored."""

REDUCING_MAPS = ("reduce_zero_label", "ade20k")
"""Class maps of label maps with 0 for void, from whose ids 1 is subtracted."""

TORCH_IGNORE = -100
"""Default ignore_index of the losses in Torch, not the id 156 with a wrong sign."""


def binary_masks(facts: Facts) -> Finding | None:
    """Return a finding about masks of 0 and 255 while 255 is ignored, so that no masked pixel is counted."""
    rows, mask_pixels = facts.flagged["mask"], facts.flagged_pixels["mask"]
    white = facts.raw_ids == 255
    white_elsewhere = (facts.pixels - mask_pixels)[white].sum()
    if not rows.any() or white_elsewhere or facts.interpretation.class_of(np.array([255]))[0] >= 0:
        return None
    only_masks = facts.pixels[(facts.raw_ids != 0) & ~white].sum() == 0
    if not only_masks and facts.mask_share < MASK_SHARE:
        return None  # a border of void around an empty scene
    white_pixels, count = int(mask_pixels[white].sum()), int(rows.sum())
    before = np.zeros(max(2, facts.interpretation.classes), np.int64)
    before[: facts.interpretation.classes] = facts.class_pixels()
    after = before.copy()
    after[1] += white_pixels
    return Finding(
        "binary_masks",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'contains', 'contain')} only the values 0 and 255, and 255 is "
        f"ignored. The {plural(white_pixels, 'pixel')} inside the masks are not counted.",
        "Map 255 to class 1 with --class-map binary."
        if only_masks
        else "Exclude these masks with --pattern, or convert them to the ids of the other files.",
        facts.files.first_paths(rows),
        count,
        (255,),
        facts.interpretation.largest_change(before, after),
    )


def images(facts: Facts) -> Finding | None:
    """Return a finding about files with as many ids as an image has brightness values."""
    rows = facts.flagged["photo"]
    if not rows.any() or facts.table.configuration.counting.rule != VALUE:
        return None
    count = int(rows.sum())
    pixels = facts.flagged_pixels["photo"]
    others = facts.pixels - pixels
    exclusive = facts.raw_ids[(pixels > 0) & (others == 0)]
    return Finding(
        "images",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'has', 'have')} at least {int(facts.ids_per_sample[rows].min())} "
        "different ids, none of them frequent. Images have this many brightness values; label maps do not.",
        "Exclude the images with --pattern. If they are depths or instance ids, choose files with class ids.",
        facts.files.first_paths(rows),
        count,
        tuple(exclusive.tolist()),
        facts.change_without(pixels) if count < facts.counted else None,
    )


def instance_ids(facts: Facts) -> Finding | None:
    """Return a finding about ids that number objects: far above their number, or 1 … k in each file."""
    configuration = facts.table.configuration
    if configuration.counting.rule != VALUE or configuration.class_map is not None:
        return None
    is_class = facts.interpretation.class_of(facts.raw_ids) >= 0
    ids = facts.raw_ids[is_class & (facts.pixels > 0) & ~facts.flagged_ids("photo")]
    if not len(ids):
        return None
    sparse = ids[ids > MAX_PLAUSIBLE_ID]
    if len(sparse) and ids[-1] + 1 > SPARSE_IDS * len(ids):
        found = (
            f"Only {plural(len(ids), 'id')} of 0 to {ids[-1]} occur, for example {list_first(sparse, 4)}. "
            "Such ids number objects, or mark pixels without data; they are not classes."
        )
        explained, rows = sparse, _examples(facts, sparse)
    elif (numbered := _numbered(facts)) is not None:
        found = (
            f"In {numbered:.0%} of the files the ids are 1 to the number of ids, up to {ids[-1]}, and fewer "
            "files contain higher ids. Such ids number the objects of an image; they are not classes."
        )
        explained, rows = ids[ids > 0], facts.files.first_paths(facts.consecutive)
    else:
        return None
    return Finding(
        "instance_ids",
        SERIOUS,
        found,
        "Choose the files with class ids with --pattern, derive them with --rule 'id // 1000' or 'id // 256' "
        "if the ids encode classes, map all objects to one class, or ignore ids with --ignore-index.",
        rows,
        int((facts.ids_per_sample > 0).sum()) if not len(sparse) else int(facts.images[is_class].max()),
        tuple(explained.tolist()),
    )


def _numbered(facts: Facts) -> float | None:
    """Return the share of files whose ids are 1 … k, if they number objects; None otherwise."""
    counted = facts.files.status == 0
    share = facts.consecutive[counted].mean() if counted.any() else 0.0
    numbers = facts.ids_per_sample[facts.consecutive]
    distinct = len(np.unique(numbers))
    high = len(numbers) and numbers.max() > MIN_OBJECTS
    return float(share) if share >= NUMBERED_SHARE and distinct >= MIN_NUMBERS and high else None


def nodata(facts: Facts) -> Finding | None:
    """Return a finding about a usual nodata value, far above the other ids, that is counted as a class."""
    configuration = facts.table.configuration
    if configuration.counting.rule != VALUE or configuration.class_map is not None:
        return None
    is_class = (facts.interpretation.class_of(facts.raw_ids) >= 0) & (facts.pixels > 0)
    ids = facts.raw_ids[is_class]
    if len(ids) < 2 or ids[-1] not in NODATA or ids[-1] < 4 * (ids[-2] + 2):
        return None
    column = np.flatnonzero(facts.raw_ids == ids[-1])
    without = np.where(facts.raw_ids == ids[-1], facts.pixels, 0)
    return Finding(
        "nodata",
        SERIOUS,
        f"The id {ids[-1]} ({plural(int(facts.pixels[column[0]]), 'pixel')}) is far above the other ids (up "
        f"to {ids[-2]}) and a usual value for pixels without data, but it is counted as a class.",
        f"Ignore it with --ignore-index {ids[-1]},255.",
        _examples_in_rows(facts, int(column[0])),
        int(facts.images[column[0]]),
        (int(ids[-1]),),
        facts.change_without(without),
    )


def reduced_twice(facts: Facts) -> Finding | None:
    """Return a finding about a class map that subtracts 1 from ids from which 1 was already subtracted."""
    class_map = facts.table.configuration.class_map
    if class_map is None or class_map.name not in REDUCING_MAPS:
        return None
    white = facts.raw_ids == 255
    if not facts.pixels[white].sum():
        return None
    before = facts.class_pixels()
    return Finding(
        "reduced_twice",
        SERIOUS,
        f"The class map {class_map.name} subtracts 1 from every id and ignores 0, but the files contain 255 "
        f"({plural(int(facts.pixels[white].sum()), 'pixel')}), which only label maps that were already "
        "reduced have. The first class is ignored, and every other class counts for the one before it.",
        "Omit the class map (--class-map none), also in training, or use the original files.",
        _examples(facts, np.array([255])),
        int(facts.images[white].max()),
        (255,),
        facts.interpretation.largest_change(before, np.roll(before, 1)),
    )


def reduced_partly(facts: Facts) -> Finding | None:
    """Return a finding about some files from whose ids 1 was subtracted, and 0 replaced by 255."""
    configuration = facts.table.configuration
    rows = facts.flagged["white"]
    others = (facts.files.status == 0) & ~rows
    if configuration.counting.rule != VALUE or min(rows.sum(), others.sum()) < MIN_REDUCED:
        return None
    reduced = _share_of_ids(facts, facts.flagged_pixels["white"])
    plain = _share_of_ids(facts, facts.pixels - facts.flagged_pixels["white"])
    if plain[0] == 0 or plain[255] or not (reduced[:255] > 0).any():
        return None
    # Subtracting 1 modulo 256 turns the histogram of the other files into that of these files.
    shifted, same = np.roll(plain, -1), plain
    if _similarity(reduced, shifted) < MIN_SIMILARITY or _similarity(reduced, same) > MAX_SIMILARITY:
        return None
    count = int(rows.sum())
    return Finding(
        "reduced_partly",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'contains', 'contain')} 255, and the other files have the same "
        "frequencies for the next higher ids. reduce_zero_label was probably applied to these files only, so "
        "the same class has two ids.",
        "Export these files again, or apply the same step to all files.",
        facts.files.first_paths(rows),
        count,
    )


def _share_of_ids(facts: Facts, pixels: Int64) -> NDArray[np.float64]:
    """Return the share of the ids 0 … 255, float64 [256], given the pixels of raw ids, int64 [K]."""
    shares = np.zeros(256)
    known = (facts.raw_ids >= 0) & (facts.raw_ids < 256)
    shares[facts.raw_ids[known]] = pixels[known]
    return np.asarray(shares / max(1.0, shares.sum()), np.float64)


def _similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the share that two distributions have in common, 0 … 1."""
    return float(np.minimum(first, second).sum())


def _examples_in_rows(facts: Facts, column: int) -> tuple[str, ...]:
    """Return paths of the first samples that contain the raw id of a column; reads the rows a second time."""
    rows: list[int] = []
    start = 0
    for block in facts.table.blocks():
        rows += (start + np.flatnonzero(block.counts[:, column] > 0)).tolist()
        start += len(block.path)
        if len(rows) >= MAX_FILES:
            break
    return facts.files.first_paths(np.array(rows[:MAX_FILES], np.int64))


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
        _examples(facts, ids),
        int(facts.images[affected].max()),
        tuple(ids.tolist()),
        facts.interpretation.largest_change(
            facts.class_pixels(), facts.interpretation.class_pixels(corrected, facts.pixels)
        ),
    )


def two_voids(facts: Facts) -> Finding | None:
    """Return a finding about −1 and 255 in one dataset: both are ignored here, but a loss ignores one id."""
    ids = np.array([-1, 255])
    columns = np.flatnonzero(np.isin(facts.raw_ids, ids) & (facts.pixels > 0))
    is_class = (facts.interpretation.class_of(ids) >= 0).any()
    if len(columns) < 2 or is_class or facts.table.configuration.class_map is not None:
        return None
    minus_one, white = facts.pixels[columns].tolist()
    return Finding(
        "two_voids",
        NOTICE,
        f"Both −1 ({plural(minus_one, 'pixel')}) and 255 ({plural(white, 'pixel')}) mark ignored pixels. The "
        "weights are correct, but a loss ignores only one id.",
        "Set label[label < 0] = 255 before training.",
        _examples(facts, ids),
        int(facts.images[columns].max()),
        (-1, 255),
    )


def unexpected(facts: Facts, explained: set[int]) -> Finding | None:
    """Return a finding about ids that are neither classes nor ignored.

    explained  raw ids that other findings explain; they are skipped
    """
    affected = _unexpected_ids(facts) & ~np.isin(facts.raw_ids, list(explained))
    if not affected.any():
        return None
    ids, pixels = facts.raw_ids[affected], facts.pixels[affected]
    most_pixels = np.argsort(-pixels, kind="stable")
    before = facts.class_pixels()
    after = np.concatenate([before, pixels])
    weights = facts.interpretation.weights(after)
    has_palette = facts.table.configuration.counting.palette is not None
    described = []
    for k in most_pixels.tolist():
        text = f"{_id_or_color(int(ids[k]), has_palette)}: {plural(int(pixels[k]), 'pixel')}"
        if weights is not None:
            text += f", as a class of weight {weights[len(before) + k]:.3g}"
        described.append(text)
    return Finding(
        "unexpected_ids",
        SERIOUS,
        f"{plural_with_verb(len(ids), 'id', 'is', 'are')} neither a class nor ignored, so the pixels are "
        f"not counted: {list_first(described, 4)}",
        "Add the colors to the palette, and scan the label maps as a new dataset."
        if has_palette
        else "Ignore them with --ignore-index, make them classes with --num-classes, or map them to classes "
        "in the class map.",
        _examples(facts, ids[most_pixels]),
        int(facts.images[affected].max()),
        tuple(ids.tolist()),
        facts.interpretation.largest_change(
            np.concatenate([before, np.zeros_like(pixels)]), after, len(before)
        ),
    )


def _unexpected_ids(facts: Facts) -> Bool:
    """Return the ids with pixels, bool [K], that are neither classes nor ignored."""
    ids, known = facts.raw_ids, np.ones(len(facts.raw_ids), bool)
    if (class_map := facts.interpretation.counts.class_map) is not None:
        ids, known = class_map.apply(facts.raw_ids)
    ignored = known & np.isin(ids, np.array(facts.interpretation.counts.ignore, np.int64))
    is_class = facts.interpretation.class_of(facts.raw_ids) >= 0
    return np.asarray((facts.pixels > 0) & ~is_class & ~ignored, np.bool_)


def _id_or_color(raw_id: int, has_palette: bool) -> str:
    """Return `id 7`, or `color #010203` for the raw id of a color that the palette does not contain."""
    color = palettes.unknown_color(raw_id) if has_palette else None
    return f"id {raw_id}" if color is None else f"color {color}"


def _examples(facts: Facts, ids: Int64) -> tuple[str, ...]:
    """Return paths of samples that contain these ids: the first sample of each id, then the second, …."""
    rows_of_ids = [facts.examples.get(int(raw_id), []) for raw_id in ids]
    order = [rows[k] for k in range(MAX_FILES) for rows in rows_of_ids if k < len(rows)]
    return facts.files.first_paths(np.array(list(dict.fromkeys(order)), np.int64))
