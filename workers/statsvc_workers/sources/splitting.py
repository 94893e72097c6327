"""Split files into kinds by suffix, prefix, numbered word, folder, extension and content.

Each method returns the groups of some files. Files that share names are split if they may be label maps of
the same images, which `same_images` examines.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from statsvc.dataset.splits import FOLDERS as SPLIT_FOLDERS
from statsvc.dataset.splits import folder_split
from statsvc_workers.sources.file_names import (
    READERS,
    VIEWS,
    Stems,
    numbered_variant,
)
from statsvc_workers.sources.inspection import FOLDERS, grouped, spread
from statsvc_workers.sources.pairing import MANY_VARIANTS, NUMBER, pair_of_folders, pairs_of_variants
from statsvc_workers.sources.roles import VARIANTS, VERSION, folder_role, role_of, without_splits, words
from statsvc_workers.sources.same_images import Images, Pair, pixels_agree, pixels_equal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from statsvc_workers.sources.file_names import NamedFile
    from statsvc_workers.sources.inspection import Inspection
    from statsvc_workers.sources.pairing import Variant

CONTENT_FOLDERS = 12
"""Folders in which the pixels of files are inspected."""

MANY_NUMBERS = 8
"""More numbers than this after one word are numbers of images: `mask_001`."""

MANY_NAMES = 8
"""More prefixes or extensions than this are not inspected, because each takes the pixels of a file."""

MINORITY = 0.1
"""A smaller share of images among label maps is a set of bad samples, not a kind."""

WHOLE_STEM = "\0"
"""The variant of a file whose stem, with its suffix, is the name of the image of another file."""


class Splitting:
    """Splits the files of one source.

    photos  paths of images, whether they can be read or not
    joined  notes on files that share names and stay together: (path, other path, text)
    """

    def __init__(self, inspection: Inspection, photos: Iterable[str]) -> None:
        self.inspection = inspection
        self.images = Images(photos)
        self.joined: list[tuple[str, str, str]] = []

    def split(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Return the kinds of file."""
        groups = [files]
        for split in (
            self._by_suffix,
            self._by_prefix,
            self._by_number,
            self._by_part,
            self._by_folder,
            self._by_copies,
            self._by_extension,
            self._by_look,
            self._by_content,
        ):
            groups = [part for group in groups for part in split(group)]
        return groups

    def _by_suffix(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        stems = {(file.folder, file.stem) for file in files}
        variants: list[Variant] = [(file, (file.base,), file.suffix) for file in files]
        for file in files:  # x_ED_gt belongs to x_ED, which has a suffix itself
            variants.append((file, (file.folder, file.stem), WHOLE_STEM))
            if file.suffix and (file.folder, file.base) in stems:
                variants.append((file, (file.folder, file.base), file.suffix))
        bases: dict[str, set[str]] = defaultdict(set)
        for file in files:
            bases[NUMBER.sub("#", file.suffix)].add(file.base)
        suffixes = {
            name
            for pair in pairs_of_variants(variants)
            if not any(NUMBER.search(name) and len(bases[NUMBER.sub("#", name)]) < 2 for name in pair.names)
            and self._are_readings(pair)
            for name in pair.names
        } - {WHOLE_STEM, ""}
        suffixes |= self._color_suffixes(files)
        return list(grouped(files, lambda file: file.suffix if file.suffix in suffixes else "").values())

    def _are_readings(self, pair: Pair) -> bool:
        """Whether two suffixes distinguish label maps of one image, and not two images."""
        said = self.images.say(pair)
        if said is None and self._are_views(pair):
            self._join(pair, f"the names that end in {pair.names[0]} and {pair.names[1]}")
            return False
        return said is not False

    def _are_views(self, pair: Pair) -> bool:
        """Whether two groups are views of a scene: masks of the left and the right lung are not."""
        different = {*words(pair.names[0])} ^ {*words(pair.names[1])}
        return (
            bool(different)
            and different <= VIEWS
            and not (self.inspection.are_binary(pair.first) and self.inspection.are_binary(pair.second))
        )

    def _by_prefix(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by prefixes that have a role, if the same images occur with another prefix."""
        prefix_of = {file.path: file.prefix for file in files if file.prefix and role_of(file.prefix)}
        frequency = Counter(prefix_of.values())
        prefix_of = {
            path: prefix for path, prefix in prefix_of.items() if frequency[prefix] >= MINORITY * len(files)
        }
        variants = [
            (file, (file.folder, file.stem[len(prefix) :].lstrip("_-. ")), prefix)
            for file in files
            for prefix in (prefix_of.get(file.path, ""),)
        ]
        prefixes = {name for pair in pairs_of_variants(variants) for name in pair.names} - {""}
        if not prefixes:
            return [files]
        return list(grouped(files, lambda file: _if_in(prefix_of.get(file.path, ""), prefixes)).values())

    def _by_number(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by a numbered word, such as `2class` or `rater1`, that numbers readings of an image."""
        named = [(file, *numbered_variant(file.stem)) for file in files]
        if not any(variant for *_, variant in named):
            return [files]
        variants = [(file, (file.folder, base), variant) for file, base, variant in named]
        numbers: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for _, key, variant in variants:
            numbers[key].add(variant)
        if max(map(len, numbers.values())) > MANY_NUMBERS:
            return [files]
        names = {
            name
            for pair in pairs_of_variants(variants)
            if all(pair.names) and self._numbers_readings(pair)
            for name in pair.names
        }
        variant_of = {file.path: variant for file, _, variant in variants}
        return list(grouped(files, lambda file: _if_in(variant_of[file.path], names)).values())

    def _by_part(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by their whole name, if folders of images contain the same few names without numbers.

        Such as `case_1/tumor.nii.gz` and `case_1/organ.nii.gz`.
        """
        names = {file.stem for file in files}
        folders = grouped(files, lambda file: file.folder)
        if len(folders) < 2 or not 1 < len(names) <= MANY_VARIANTS or not Stems(names).words:
            return [files]
        pairs = pairs_of_variants((file, (file.folder,), file.stem) for file in files)
        parts = {name for pair in pairs if len(pair.first) > 1 for name in pair.names}
        return list(grouped(files, lambda file: _if_in(file.stem, parts)).values())

    def _numbers_readings(self, pair: Pair) -> bool:
        said = self.images.say(pair)
        if said is not None:
            return said
        word = re.sub(r"[\W\d_]+", "", pair.names[0]).lower()
        if word in READERS or word in {"class", "classes"}:
            return True
        if any(numbered_variant(file.stem)[0].strip("_-. ") != "*" for file in pair.first):
            return True
        # In `p1/mask_1.png`, nothing but the folder can name the image.
        if len({_without_split_folders(file.folder) for file in pair.first}) < 2:
            return False
        if pixels_agree(self.inspection.sample, pair):
            return True
        self._join(pair, f"the names that contain {pair.names[0]} and {pair.names[1]}")
        return False

    def _color_suffixes(self, files: Sequence[NamedFile]) -> set[str]:
        """Return the frequent suffixes if some of them belong to color images and others do not."""
        by_suffix = grouped(files, lambda file: file.suffix)
        frequent = [s for s, group in by_suffix.items() if len(group) >= max(2, MINORITY * len(files))]
        color = {suffix: self.inspection.are_color(by_suffix[suffix]) for suffix in frequent}
        if len(set(color.values())) < 2:
            return set()
        return {suffix for suffix in frequent if suffix}

    def _by_folder(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by the role of their folder, and by sibling folders with the same images."""
        folders = grouped(files, lambda file: file.folder)
        if len(folders) == 1:
            return [files]
        split_by = self._parallel_folders(folders)

        def variant(file: NamedFile) -> str:
            role, name = folder_role(file.folder)
            parts = sorted(set(file.folder.split("/")) & split_by)
            return "/".join([role.value if role else "", _if_in(name, split_by), *parts])

        return list(grouped(files, variant).values())

    def _parallel_folders(self, folders: dict[str, list[NamedFile]]) -> set[str]:
        """Return the names of sibling folders with label maps of the same images."""
        siblings: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for folder in folders:
            parts = folder.split("/")
            for k, part in enumerate(parts):
                siblings["/".join(parts[:k]), "/".join(parts[k + 1 :])][part] = folder
        pairs_of: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for folder_of in siblings.values():
            if 1 < len(folder_of) <= MANY_VARIANTS:
                for first, second in itertools.combinations(sorted(folder_of), 2):
                    pairs_of[first, second].append((folder_of[first], folder_of[second]))
        parallel: set[str] = set()
        for (first, second), pairs in pairs_of.items():
            if not VERSION.match(first) and without_splits(first) == without_splits(second):
                continue
            pair = pair_of_folders((first, second), pairs, folders)
            if pair is not None and self._same_images(pair):
                parallel |= {first, second}
        return parallel

    def _same_images(self, pair: Pair) -> bool:
        """Whether two sibling folders contain label maps of the same images."""
        first, second = pair.names
        said = self.images.say(pair)
        if said is not None:
            return said
        if self._are_views(pair):
            self._join(pair, f"the folders {first} and {second}")
            return False
        roles = [None if VARIANTS.issuperset(words(name)) else role_of(name) for name in pair.names]
        if VERSION.match(first) or any(roles):
            return VERSION.match(first) is not None or roles[0] is roles[1]
        stems = Stems(file.stem for file in pair.first)
        same_stems = any(a.stem == b.stem for a, b in zip(pair.first, pair.second, strict=True))
        numbered = NUMBER.sub("#", first) == NUMBER.sub("#", second) and first != second
        if numbered and (stems.words or not same_stems):
            # Folders of patients: p1/liver and p2/liver, or p_1/p_1_gt and p_2/p_2_gt.
            return False
        if stems.distinctive or (pixels_equal if numbered else pixels_agree)(self.inspection.sample, pair):
            return True
        self._join(pair, f"the folders {first} and {second}")
        return False

    def _by_copies(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by folder if folders in different places contain the same label maps."""
        folders = grouped(files, lambda file: file.folder)
        if not 1 < len(folders) <= MANY_VARIANTS:
            return [files]
        copies: set[str] = set()
        for first, second in itertools.combinations(sorted(folders), 2):
            in_splits = {folder_split(f"{folder}/") for folder in (first, second)}
            pair = pair_of_folders((first, second), [(first, second)], folders)
            if pair is None or len(in_splits - {None}) > 1 or _differ_by_one(first, second):
                continue
            distinctive = Stems(file.stem for file in pair.first).distinctive
            said = self.images.say(pair)
            if said is False:
                continue
            if said or distinctive or pixels_equal(self.inspection.sample, pair):
                copies |= {first, second}
            else:
                self._join(pair, f"the folders {first} and {second}")
        return list(grouped(files, lambda file: file.folder if file.folder in copies else "\0").values())

    def _join(self, pair: Pair, what: str) -> None:
        text = (
            f"{what} contain files of the same names, for example {pair.first[0].path} and "
            f"{pair.second[0].path}; they are counted as different images"
        )
        self.joined.append((pair.first[0].path, pair.second[0].path, text))

    def _by_extension(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by extension if the same images occur with several; otherwise keep one kind."""
        groups = list(grouped(files, lambda file: file.group).values())
        groups.sort(key=len, reverse=True)
        merged: list[list[NamedFile]] = []
        for group in groups:
            stems = {file.stem for file in group}
            for kind in merged:
                common = stems & {file.stem for file in kind}
                if 2 * len(common) < min(len(stems), len(kind)):
                    kind.extend(group)
                    break
            else:
                merged.append(group)
        return merged

    def _by_look(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by extension or prefix into images and label maps: `p1/t1.nii.gz`, `p1/seg.npy`."""
        keys: list[Callable[[NamedFile], str]] = [lambda file: file.group, lambda file: file.prefix]
        for key in keys:
            groups = grouped(files, key)
            if not 1 < len(groups) <= MANY_NAMES or min(map(len, groups.values())) < 2:
                continue
            images = {name for name, group in groups.items() if self.inspection.are_photos(group, 1)}
            if 0 < len(images) < len(groups):
                return [[file for file in files if (key(file) in images) is image] for image in (True, False)]
        return [files]

    def _by_content(self, files: list[NamedFile]) -> list[list[NamedFile]]:
        """Split files by folder into images and label maps."""
        folders = grouped(files, lambda file: file.folder)
        if len(folders) == 1:
            return [files]
        inspection = self.inspection
        chosen = spread(sorted(folders), FOLDERS)
        image_folders = {folder for folder in chosen if inspection.are_color(folders[folder])}
        if len(image_folders) == len(folders):
            image_folders = set()  # only the pixels show which ones have ids in three equal channels
        gray = [folder for folder in sorted(folders) if folder not in image_folders]
        image_folders |= {
            folder for folder in spread(gray, CONTENT_FOLDERS) if inspection.are_photos(folders[folder], 2)
        }
        inspected = {*chosen, *image_folders}
        label_folders = inspected - image_folders
        if not image_folders or not label_folders:
            return [files]
        if len(inspected) < len(folders):
            # Too many folders to inspect each: a folder name must tell images from label maps.
            names = set.intersection(*(set(folder.split("/")) for folder in image_folders))
            names -= {part for folder in label_folders for part in folder.split("/")}
            if not names:
                return [files]
            image_folders = {folder for folder in folders if names & set(folder.split("/"))}
        images = [file for file in files if file.folder in image_folders]
        if len(images) < MINORITY * len(files):
            return [files]
        return [images, [file for file in files if file.folder not in image_folders]]


def _differ_by_one(first: str, second: str) -> bool:
    """Whether two folders are siblings, or lie in siblings at the same place."""
    parts = first.split("/"), second.split("/")
    return len(parts[0]) == len(parts[1]) and sum(a != b for a, b in zip(*parts, strict=True)) == 1


def _without_split_folders(folder: str) -> tuple[str, ...]:
    return tuple(part for part in folder.split("/") if part.lower() not in SPLIT_FOLDERS)


def _if_in(text: str, chosen: set[str]) -> str:
    return text if text in chosen else ""
