"""Findings about files: unreadable, of odd size or pixel type, duplicates, and leakage between splits."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural, plural_with_verb
from statsvc.doctor.finding import MAX_FILES, NOTICE, SERIOUS, Finding, list_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.doctor.facts import Facts

GRAY, PALETTE = 1, 2
"""Pixel types as a version stores them: `statsvc_workers.formats.base.Mode`."""

COLOR_CODED = re.compile("is colou?r-coded")
"""Start of the stored error of a color-coded label map: `statsvc_workers.formats.base`."""

MAX_EMPTY_SHARE = 0.1
"""Share of files with background only from which they are normal."""

_ROLE = re.compile(r"train(ing)?|val(id(ation)?)?|test(ing)?", re.IGNORECASE)


def unreadable(facts: Facts) -> Iterator[Finding]:
    """Yield one finding for color-coded files and one for other files that could not be read."""
    if facts.table.failed() == 0:
        return
    _, failures = facts.table.failures(limit=None)
    color_coded = [path for path, error in failures if COLOR_CODED.search(error)]
    others = [(path, error) for path, error in failures if not COLOR_CODED.search(error)]
    if color_coded:
        yield Finding(
            "colours",
            SERIOUS,
            f"{plural_with_verb(len(color_coded), 'file', 'shows', 'show')} classes as colors. Counting "
            "needs class ids, so color-coded files are not counted.",
            "If these are the label maps, scan them as a new dataset with --rule and the name of a palette "
            "or a CSV file with the columns r,g,b,id. Otherwise exclude them with --pattern.",
            tuple(color_coded[:MAX_FILES]),
            len(color_coded),
        )
    if others:
        reasons = [f"{path}: {error}" for path, error in others[:2]]
        yield Finding(
            "unreadable",
            SERIOUS,
            f"{plural(len(others), 'file')} could not be read, so the counts are incomplete: "
            f"{'; '.join(reasons)}",
            "Fix or remove the files, and scan again.",
            tuple(path for path, _ in others[:MAX_FILES]),
            len(others),
        )


def without_classes(facts: Facts) -> Iterator[Finding]:
    """Yield findings about files with ignored pixels only, and about few files with background only."""
    counted = facts.files.status == 0
    ignored = counted & (facts.counted_pixels == 0)
    if ignored.any() and not ignored[counted].all():
        count = int(ignored.sum())
        yield Finding(
            "fully_ignored",
            NOTICE,
            f"{plural_with_verb(count, 'file', 'contains', 'contain')} only ignored or unexpected ids, so no "
            "pixel is counted. Training on them gives no loss, or NaN.",
            "Remove them from the training split, or check how they were exported.",
            facts.files.first_paths(ignored),
            count,
        )
    empty = counted & ~ignored
    empty &= facts.background_only
    count = int(empty.sum())
    others_have_objects = bool((facts.ids_per_sample[counted & ~empty & ~ignored] > 1).all())
    few = 0 < count <= MAX_EMPTY_SHARE * counted.sum()
    if few and others_have_objects and len(facts.class_id) > 2:
        yield Finding(
            "empty",
            NOTICE,
            f"{plural_with_verb(count, 'file', 'contains', 'contain')} only the id 0, and all others have "
            "several ids. Annotations may be missing.",
            "Check that nothing had to be annotated in these images.",
            facts.files.first_paths(empty),
            count,
        )


def odd_sizes(facts: Facts) -> Finding | None:
    """Return a finding about files that differ in size if nearly all others have the same size."""
    rows = facts.flagged["odd"]
    if not rows.any():
        return None
    files = facts.files
    usual = np.flatnonzero((files.status == 0) & ~rows)[0]
    height, width = int(files.height[usual]), int(files.width[usual])
    sizes = np.unique(files.sizes()[rows]).tolist()
    rotated = int((rows & (files.height == width) & (files.width == height)).sum()) if height != width else 0
    odd = list_first((f"{size >> 32}x{size % 2**32}" for size in sizes), 4)
    found = (
        f"{plural_with_verb(int(rows.sum()), 'file', 'is', 'are')} {odd}, and all others are "
        f"{width}x{height}. "
    )
    if rotated:
        found += f"{rotated} of them may be rotated by 90°. "
    return Finding(
        "odd_sizes",
        NOTICE,
        found + "Files of another size can be cropped, resized or unrelated to the dataset.",
        "Check that they are label maps of this dataset, and neither rotated, cropped nor resized.",
        files.first_paths(rows),
        int(rows.sum()),
        moves=facts.change_without(facts.flagged_pixels["odd"]),
    )


def pixel_types(facts: Facts) -> Finding | None:
    """Return a finding about palette images among gray ones, or vice versa, whose ids are different."""
    palette_pixels, gray_pixels = facts.mode_pixels.get(PALETTE), facts.mode_pixels.get(GRAY)
    if palette_pixels is None or gray_pixels is None:
        return None
    is_palette, is_gray = ((facts.files.status == 0) & (facts.files.mode == mode) for mode in (PALETTE, GRAY))
    palette, gray = ("palette", is_palette, palette_pixels), ("gray", is_gray, gray_pixels)
    rarer, other = (palette, gray) if is_palette.sum() < is_gray.sum() else (gray, palette)
    (name, rows, pixels), (other_name, _, other_pixels) = rarer, other
    # Ids that only the rarer type has are palette indices with another meaning, or brightness values.
    ids, other_ids = _interior_ids(facts, pixels), _interior_ids(facts, other_pixels)
    exclusive = sorted(ids - other_ids)
    if not exclusive or len(exclusive) < len(ids) / 2:
        return None
    count = int(rows.sum())
    return Finding(
        "pixel_types",
        SERIOUS,
        f"{plural_with_verb(count, 'file', 'is a', 'are')} {name} {'image' if count == 1 else 'images'}, the "
        f"others are {other_name} images. The ids {list_first(exclusive)} occur in no other file, so these "
        "files probably number the classes differently.",
        "Open some of them: palette indices and gray values are class ids only if they were written as such. "
        "Convert these files, or exclude them with --pattern.",
        facts.files.first_paths(rows),
        count,
        tuple(exclusive),
        facts.change_without(pixels),
    )


def _interior_ids(facts: Facts, pixels: NDArray[np.int64]) -> set[int]:
    """Return the ids with pixels, except 0 and 255, which every pixel type uses."""
    ids: list[int] = facts.raw_ids[pixels > 0].tolist()
    return set(ids) - {0, 255}


def duplicates(facts: Facts) -> Finding | None:
    """Return a finding about files with equal bytes in the same splits, or in a dataset without splits."""
    rows = facts.flagged["copy"]
    if not rows.any():
        return None
    pairs = _copies_in_same_splits(facts)
    if not pairs:
        return None
    copies = [copy for copy, _ in pairs]
    named = [f"{facts.files.path[copy]} is {facts.files.path[original]}" for copy, original in pairs]
    return Finding(
        "duplicates",
        NOTICE,
        f"{plural_with_verb(len(copies), 'file', 'has', 'have')} the same bytes as another file of the same "
        f"split, so the pixels count twice: {list_first(named, 2)}",
        "Remove the copies, unless they are intended.",
        facts.files.first_paths(np.array(copies)),
        len(copies),
        moves=facts.change_without(facts.flagged_pixels["copy"]) if len(copies) == rows.sum() else None,
    )


def _copies_in_same_splits(facts: Facts) -> list[tuple[int, int]]:
    """Return (row, row of the first equal file) of each file that equals another one in the same splits."""
    pairs: list[tuple[int, int]] = []
    for rows in _rows_with_equal_content(facts):
        first_in: dict[tuple[bool, ...], int] = {}
        for row in rows:
            splits = tuple(bool(member[row]) for member in facts.members.values())
            if splits in first_in:
                pairs.append((row, first_in[splits]))
            else:
                first_in[splits] = row
    return pairs


def _rows_with_equal_content(facts: Facts) -> list[list[int]]:
    """Return the rows of each content that occurs more than once, in path order."""
    repeated = np.unique(facts.files.content[facts.flagged["copy"]])
    rows = np.flatnonzero(np.isin(facts.files.content, repeated))
    groups: dict[int, list[int]] = defaultdict(list)
    for row, content in zip(rows.tolist(), facts.files.content[rows].tolist(), strict=True):
        groups[content].append(row)
    return list(groups.values())


def leakage(facts: Facts) -> Iterator[Finding]:
    """Yield a finding for each pair of splits, such as train and val, that share a file or its bytes."""
    usable = (facts.files.status == 0) & (facts.files.content != 0) & (facts.ids_per_sample > 1)
    paths, content = facts.files.path, facts.files.content
    for split, other_split in disjoint_splits(list(facts.members)):
        rows, other_rows = (np.flatnonzero(usable & facts.members[name]) for name in (split, other_split))
        common = np.intersect1d(content[rows], content[other_rows])
        if not len(common):
            continue
        pairs = [
            (
                str(paths[rows[content[rows] == value][0]]),
                str(paths[other_rows[content[other_rows] == value][0]]),
            )
            for value in common[:MAX_FILES]
        ]
        named = [first if first == second else f"{first} = {second}" for first, second in pairs]
        yield Finding(
            "leakage",
            SERIOUS,
            f"{plural_with_verb(len(common), 'label map', 'is', 'are')} in both {split} and {other_split}: "
            f"{list_first(named, 3, total=len(common))}. A model has already seen these images, so scores on "
            f"{other_split} are too optimistic.",
            f"Remove them from {split}.",
            tuple(dict.fromkeys(path for pair in pairs for path in pair))[:MAX_FILES],
            len(common),
            moves=facts.change_without(facts.flagged_pixels["copy"])
            if len(common) == facts.flagged["copy"].sum()
            else None,
        )


def disjoint_splits(splits: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of splits that must not share samples: different roles, of the same fold if any.

    A training split comes first.
    """
    for split, other in combinations(splits, 2):
        roles = _ROLE.search(split), _ROLE.search(other)
        if roles[0] is None or roles[1] is None or roles[0][0][:2].lower() == roles[1][0][:2].lower():
            continue
        if _ROLE.sub("", split, count=1) == _ROLE.sub("", other, count=1):
            yield (other, split) if roles[1][0].lower().startswith("train") else (split, other)
