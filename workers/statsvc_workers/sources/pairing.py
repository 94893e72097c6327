"""Find groups of files that may be label maps of the same images: those that share names or folders."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from statsvc_workers.sources.same_images import Pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from statsvc_workers.sources.file_names import NamedFile

    Variant = tuple[NamedFile, tuple[str, ...], str]
    """A file, the name of its image, and its variant."""

MANY_VARIANTS = 16
"""More variants of one image than this are names of images, not kinds."""

NUMBER = re.compile(r"\d+")


def pairs_of_variants(variants: Iterable[Variant]) -> Iterator[Pair]:
    """Yield pairs of variants that share images: at least half of the images of the smaller group.

    variants  files with the name of their image and their variant, such as a suffix, which may be ""
    """
    files_of: dict[tuple[str, ...], dict[str, NamedFile]] = defaultdict(dict)
    images: dict[str, set[str]] = defaultdict(set)
    for file, image, variant in variants:
        files_of[image].setdefault(variant, file)
        images[variant].add(file.path)
    shared: dict[tuple[str, str], list[tuple[NamedFile, NamedFile]]] = defaultdict(list)
    for found in files_of.values():
        if 1 < len(found) <= MANY_VARIANTS:
            for first, second in itertools.combinations(sorted(found), 2):
                if found[first] is not found[second]:
                    shared[first, second].append((found[first], found[second]))
    for names, pairs in shared.items():
        if 2 * len(pairs) >= min(len(images[name]) for name in names):
            first_files, second_files = zip(*pairs, strict=True)
            yield Pair(names, first_files, second_files)


def pair_of_folders(
    names: tuple[str, str], pairs: Sequence[tuple[str, str]], folders: Mapping[str, Sequence[NamedFile]]
) -> Pair | None:
    """Return the files with equal names in pairs of folders; None if they share less than half of them."""
    shared: list[tuple[NamedFile, NamedFile]] = []
    smaller = 0
    for both in pairs:
        # Files may repeat the name of their folder, such as gtFine/x_gtFine_labelIds.png.
        by_stem, by_image = (
            [
                {key(file, name): file for file in folders[folder]}
                for name, folder in zip(names, both, strict=True)
            ]
            for key in (_stem, _without_folder)
        )
        chosen = max(by_stem, by_image, key=lambda found: len(found[0].keys() & found[1].keys()))
        smaller += min(map(len, chosen))
        shared += [(chosen[0][name], chosen[1][name]) for name in sorted(chosen[0].keys() & chosen[1].keys())]
    if not shared or 2 * len(shared) < smaller:
        return None
    first, second = zip(*shared, strict=True)
    return Pair(names, first, second)


def _stem(file: NamedFile, _folder: str) -> str:
    return file.stem


def _without_folder(file: NamedFile, folder: str) -> str:
    # Or its singular, such as fronts/x_front.png and zones/x_zone.png.
    stem = re.sub(rf"{re.escape(folder.rstrip('s'))}s?", "", file.stem, flags=re.IGNORECASE)
    for number in NUMBER.findall(folder):
        stem = re.sub(rf"(?<!\d){number}(?!\d)", "", stem)
    return stem
