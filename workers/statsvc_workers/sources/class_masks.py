"""One binary mask per class: the masks of one picture become one sample.

===========  =====================================================  ====================================
rule         example                                                picture and class
===========  =====================================================  ====================================
`:file`      `s0001/segmentations/liver.nii.gz` (TotalSegmentator)  folder, file name
`:folder`    `masks/2/a.png` (nested U-Net)                         file name, folder
`:suffix`    `a_liver.png`                                          file name up to the last "_", the rest
`:tag`       `task-1-annotation-3-by-1-tag-Car-0.png`               Label Studio: before and after `-tag-`
===========  =====================================================  ====================================

Classes have the ids 1 … n in the order of their names, numbers first; pixels outside all masks have the id 0.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from statsvc.classes.class_maps import MAX_CLASSES
from statsvc.dataset.counting_rule import MASKS, MASKS_BY
from statsvc.dataset.splits import FOLDERS
from statsvc.errors import SourceError
from statsvc_workers.formats import extension
from statsvc_workers.samples.members import Member
from statsvc_workers.sources.file_names import Stems
from statsvc_workers.sources.listing import Listing, ListingColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    _Reader = Callable[[Iterable[str]], dict[str, tuple[str, str]]]
    """From paths to (picture, class) of each path that is named like a mask."""

BACKGROUND = "background"

TAG = re.compile(r"(?P<picture>.+)-tag-(?P<name>.+)-[0-9]+")
"""Name of a mask that Label Studio exports; the last number counts masks of one class."""

SHARE = 0.8
"""Share of the files that must have the same arrangement before it is chosen."""


def group(listing: Listing, rule: str, classes: Sequence[str]) -> Listing:
    """Return the listing of the pictures, given the listing of their masks.

    classes  names of the ids 1 … n that the dataset has; empty before its first scan

    Raises `SourceError` where the file names do not show which masks belong to one picture.
    """
    paths = [path for path in listing.path if path not in listing.unreadable]
    read_names = _arrangement(paths, rule)
    names = read_names(paths)
    occurring = sorted({name for _, name in names.values()} - {BACKGROUND}, key=_order)
    id_of = {BACKGROUND: 0} | {name: k for k, name in enumerate(classes or occurring, 1)}
    if len(id_of) > MAX_CLASSES:
        raise SourceError(f"the file names contain {len(id_of)} classes, more than {MAX_CLASSES}")
    row_of = {path: row for row, path in enumerate(listing.path)}
    masks_of: dict[str, list[tuple[int, str]]] = defaultdict(list)
    unreadable = {}
    for path, (picture, name) in names.items():
        if name not in id_of:
            unreadable[picture] = (
                f"has a mask of the class {name!r}, which the dataset did not have at its first scan; "
                "scan it as a new dataset"
            )
        masks_of[picture].append((id_of.get(name, 0), path))
    columns, members = ListingColumns(), {}
    unreadable_names = read_names(listing.unreadable)
    for path, reason in listing.unreadable.items():
        picture, _ = unreadable_names.get(path, ("", ""))
        if picture in masks_of:  # without this mask, its pixels would count as background
            unreadable[picture] = f"has the mask {path.rpartition('/')[2]}, which {reason}"
        else:
            columns.add(path, _fingerprint(listing, [row_of[path]]))
            unreadable[path] = reason
    for picture, masks in masks_of.items():
        masks.sort()
        (_, first), *others = masks
        fingerprint = _fingerprint(listing, [row_of[path] for _, path in masks])
        columns.add(picture, fingerprint)
        ids = tuple(class_id for class_id, _ in masks)
        files = tuple(path for _, path in others)
        length = fingerprint[0]
        members[picture] = Member(picture, first, "masks", ids, length, files, listed=fingerprint)
    class_names = (BACKGROUND, *(classes or occurring))
    return Listing(*columns.take_sorted(), unreadable, members, class_names)


def looks_like_masks(paths: Sequence[str]) -> bool:
    """Whether label maps that turn out to be binary are named like one mask per class."""
    if not paths:
        return False
    if len(_by_tag(paths)) >= SHARE * len(paths):
        return True
    by_folder = _by_folder(paths)
    splits = {name for _, name in by_folder.values()} & {*FOLDERS}
    if not splits and _fits(by_folder, paths):
        return True
    # Each folder is a picture if its files are named like those of the other folders.
    by_file = _by_file(paths)
    return not splits and _fits(by_file, paths) and _classes_are_few(by_file)


def are_named_masks(paths: Sequence[str]) -> bool:
    """Whether binary label maps have names of classes: `s0001/liver.nii.gz`, `task-1-tag-Car-0.png`."""
    if paths and len(_by_tag(paths)) >= SHARE * len(paths):
        return True
    names = _by_file(paths)
    folders = {picture for picture, _ in names.values()}
    files = Counter(name for _, name in names.values())
    return (
        len(folders) > 1
        and _fits(names, paths)
        and all(2 * count >= len(folders) for count in files.values())
        and Stems(files).words
    )


def may_be_masks(paths: Sequence[str]) -> bool:
    """Whether binary label maps of several kinds may be one mask per class, because pictures have several."""
    return any(_fits(read(paths), paths) for read in (_by_folder, _by_file, _by_suffix))


def _arrangement(paths: Sequence[str], rule: str) -> _Reader:
    """Return the function that reads the names of all these masks. Raises `SourceError`."""
    readers = {"tag": _by_tag, "folder": _by_folder, "file": _by_file, "suffix": _by_suffix}
    wanted = rule.removeprefix(MASKS).removeprefix(":")
    if wanted:
        names = readers[wanted](paths)
        if len(names) < len(paths):
            path = next(path for path in paths if path not in names)
            raise SourceError(f"--rule {rule} does not apply to {path}; exclude it with --pattern")
        return readers[wanted]
    tagged = _by_tag(paths)
    if len(tagged) >= SHARE * len(paths):
        if len(tagged) < len(paths):
            path = next(path for path in paths if path not in tagged)
            raise SourceError(f"{path} is not named like the other masks; exclude it with --pattern")
        return _by_tag
    fitting = {by: names for by in ("folder", "file", "suffix") if _fits(names := readers[by](paths), paths)}
    if len(fitting) > 1:
        # A class occurs in many pictures, so there are fewer classes than pictures.
        several = {by: names for by, names in fitting.items() if len({p for p, _ in names.values()}) > 1}
        few = {by: names for by, names in fitting.items() if _classes_are_few(names)}
        fitting = few or several or fitting
    if len(fitting) != 1:
        examples = ", ".join(sorted(paths)[:3])
        options = ", ".join(f"{MASKS}:{by}" for by in fitting or MASKS_BY)
        raise SourceError(
            f"the file names do not show which masks belong to one picture, for example {examples}; choose "
            f"one of the rules {options}"
        )
    return readers[next(iter(fitting))]


def _fits(names: Mapping[str, tuple[str, str]], paths: Sequence[str]) -> bool:
    """Whether most pictures have several masks, and there are several classes."""
    if len(names) < len(paths):
        return False
    masks = Counter(picture for picture, _ in names.values())
    return (
        len({name for _, name in names.values()}) > 1 and sum(n > 1 for n in masks.values()) > len(masks) / 2
    )


def _classes_are_few(names: Mapping[str, tuple[str, str]]) -> bool:
    pictures = {picture for picture, _ in names.values()}
    return len({name for _, name in names.values()}) < len(pictures)


def _by_tag(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    names = {}
    for path in paths:
        if match := TAG.fullmatch(_stem(path)):
            names[path] = (_join(path.rpartition("/")[0], match["picture"]), match["name"])
    return names


def _by_folder(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    names = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        parent, _, name = folder.rpartition("/")
        if name:
            names[path] = (_join(parent, file), name)
    return names


def _by_file(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    names = {}
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder:
            names[path] = (folder, _stem(path))
    return names


def _by_suffix(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    names = {}
    for path in paths:
        picture, _, name = _stem(path).rpartition("_")
        if picture and name:
            names[path] = (_join(path.rpartition("/")[0], picture), name)
    return names


def _fingerprint(listing: Listing, rows: list[int]) -> tuple[int, int, int]:
    """Return the joint fingerprint of files, as `statsvc_workers.samples.stamps.combined` defines it."""
    chosen = np.array(rows)
    return (
        int(listing.size[chosen].sum()),
        int(listing.mtime_ns[chosen].max()),
        int(listing.ctime_ns[chosen].max()),
    )


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[: len(name) - len(extension(name))]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _order(name: str) -> tuple[bool, int, str]:
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
