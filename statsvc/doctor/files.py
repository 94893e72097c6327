"""Findings about files: sizes, pixel types, copies, and what could not be read."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from statsvc.doctor.finding import NAMED, NOTICE, SERIOUS, Finding, listed, plural, subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.doctor.facts import Facts

MODES = {1: "grey", 2: "palette", 3: "array"}
"""Pixel types as a version stores them; `statsvc_workers.formats.base.Mode` gives them out."""

COLOUR_CODED = "is colour-coded"
"""How a reader begins the refusal of colours; `statsvc_workers.formats.base.colour_coded`."""

_ROLE = re.compile(r"train(ing)?|val(id(ation)?)?|test(ing)?", re.IGNORECASE)


def unreadable(facts: Facts) -> Iterator[Finding]:
    """Samples that could not be read: those that show classes as colours, and the others."""
    if facts.table.failed() == 0:
        return
    _, failures = facts.table.failures(limit=None)
    colours = [path for path, error in failures if COLOUR_CODED in error]
    others = [(path, error) for path, error in failures if COLOUR_CODED not in error]
    if colours:
        yield Finding(
            "colours",
            SERIOUS,
            f"{subject(len(colours), 'file', 'shows', 'show')} classes as colours, so none of it is counted",
            "if these are the label maps, scan them as another dataset with --rule (a palette's name, or a "
            "CSV file r,g,b,id); else leave them out with --pattern",
            tuple(colours[:NAMED]),
            len(colours),
        )
    if others:
        reasons = [f"{path}: {error}" for path, error in others[:2]]
        yield Finding(
            "unreadable",
            SERIOUS,
            f"{plural(len(others), 'file')} could not be read, so not counted: {'; '.join(reasons)}",
            "mend or remove the files, and scan again",
            tuple(path for path, _ in others[:NAMED]),
            len(others),
        )


def odd_sizes(facts: Facts) -> Finding | None:
    """Samples of another size where nearly all have one."""
    rows = facts.flagged["odd"]
    if not rows.any():
        return None
    files = facts.files
    usual = np.flatnonzero((files.status == 0) & ~rows)[0]
    height, width = int(files.height[usual]), int(files.width[usual])
    sizes = np.unique(np.stack([files.width[rows], files.height[rows]], axis=1), axis=0).tolist()
    turned = int((rows & (files.height == width) & (files.width == height)).sum()) if height != width else 0
    saw = (
        f"{subject(int(rows.sum()), 'file', 'is', 'are')} {listed((f'{w}x{h}' for w, h in sizes), 4)} where "
        f"all others are {width}x{height}"
    )
    return Finding(
        "odd_sizes",
        NOTICE,
        saw + (f"; {turned} of them turned by 90°" if turned else ""),
        "check that they are label maps of this dataset, neither turned, cropped nor resized",
        files.named(rows),
        int(rows.sum()),
        moves=facts.moved_without(facts.flagged_pixels["odd"]),
    )


def pixel_types(facts: Facts) -> Finding | None:
    """Palette images beside grey ones with ids that the other kind does not have."""
    palette, grey = facts.mode_pixels.get(2), facts.mode_pixels.get(1)
    if palette is None or grey is None:
        return None
    ids = [set(facts.raw_ids[pixels > 0].tolist()) - {0, 255} for pixels in (palette, grey)]
    # Ids of the rarer kind that the other lacks: indices that mean something else, or brightness.
    there = (facts.files.status == 0) & (facts.files.mode > 0)
    modes = [there & (facts.files.mode == mode) for mode in (2, 1)]
    few = 0 if modes[0].sum() < modes[1].sum() else 1
    alone = sorted(ids[few] - ids[1 - few])
    if not alone or len(alone) < len(ids[few]) / 2:
        return None
    names = ("palette", "grey")
    return Finding(
        "pixel_types",
        SERIOUS,
        f"{subject(int(modes[few].sum()), 'file', 'is', 'are')} {names[few]}, the others {names[1 - few]}: "
        f"the ids {listed(alone)} occur in no other",
        "open some: a palette's indices and grey values are ids only where both were written so; convert "
        "these files, or leave them out with --pattern",
        facts.files.named(modes[few]),
        int(modes[few].sum()),
        tuple(alone),
        facts.moved_without((palette, grey)[few]),
    )


def duplicates(facts: Facts) -> Finding | None:
    """Samples with the same bytes within one split, or anywhere where there are no splits."""
    rows = facts.flagged["copy"]
    if not rows.any():
        return None
    groups = _groups(facts)
    copies: list[int] = []
    originals: list[int] = []
    for members in groups:
        seen: dict[tuple[bool, ...], int] = {}
        for row in members:
            splits = tuple(bool(member[row]) for member in facts.members.values())
            if splits in seen:
                copies.append(row)
                originals.append(seen[splits])
            else:
                seen[splits] = row
    if not copies:
        return None
    pairs = [
        f"{facts.files.path[b]} is {facts.files.path[a]}" for a, b in zip(originals, copies, strict=True)
    ]
    return Finding(
        "duplicates",
        NOTICE,
        f"{subject(len(copies), 'file', 'has', 'have')} the same bytes as another of the same split: "
        f"{listed(pairs, 2)}",
        "remove the copies, or weigh them knowingly: they count twice",
        facts.files.named(np.array(copies)),
        len(copies),
        moves=facts.moved_without(facts.flagged_pixels["copy"]) if len(copies) == rows.sum() else None,
    )


def leakage(facts: Facts) -> Iterator[Finding]:
    """The same label map in train and in val or test: by its bytes, or in both lists."""
    usable = (facts.files.status == 0) & (facts.files.content != 0) & (facts.ids_in > 1)
    content = facts.files.content
    for one, other in _pairs(list(facts.members)):
        a, b = (np.flatnonzero(usable & facts.members[name]) for name in (one, other))
        common = np.intersect1d(content[a], content[b])
        if not len(common):
            continue
        named = [
            (
                str(facts.files.path[a[content[a] == value][0]]),
                str(facts.files.path[b[content[b] == value][0]]),
            )
            for value in common[:NAMED]
        ]
        both = [first if first == second else f"{first} = {second}" for first, second in named]
        yield Finding(
            "leakage",
            SERIOUS,
            f"{subject(len(common), 'label map', 'is', 'are')} in {one} and in {other}: {listed(both, 3)}",
            f"remove them from {one}: what a model has seen in training tells nothing in {other}",
            tuple(dict.fromkeys(path for pair in named for path in pair))[:NAMED],
            len(common),
            moves=facts.moved_without(facts.flagged_pixels["copy"])
            if len(common) == facts.flagged["copy"].sum()
            else None,
        )


def _groups(facts: Facts) -> list[list[int]]:
    """Return the rows of each content that occurs more than once, in path order."""
    wanted = np.unique(facts.files.content[facts.flagged["copy"]])
    rows = np.flatnonzero(np.isin(facts.files.content, wanted))
    found: dict[int, list[int]] = defaultdict(list)
    for row, value in zip(rows.tolist(), facts.files.content[rows].tolist(), strict=True):
        found[value].append(row)
    return list(found.values())


def _pairs(splits: list[str]) -> Iterator[tuple[str, str]]:
    """Yield splits that must not share samples: train, val and test, and those of one fold."""
    for one, other in combinations(splits, 2):
        roles = _ROLE.search(one), _ROLE.search(other)
        if roles[0] is None or roles[1] is None or roles[0][0][:2].lower() == roles[1][0][:2].lower():
            continue
        if _ROLE.sub("", one, count=1) == _ROLE.sub("", other, count=1):
            yield one, other
