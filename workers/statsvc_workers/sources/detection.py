"""Detect the kinds of file in a folder from their names, headers and a part of their pixels.

Many datasets store several files per image: `x_color.png`, `x_instanceIds.png` and `x_labelIds.png` in one
folder, `imagesTr/x.nii.gz` and `labelsTr/x.nii.gz`, `volume-0.nii` and `segmentation-0.nii`, or `x.npy` and
`x.png`. Counting them together would be wrong, so each is a separate kind with its own pattern. Files are
separated by

1. a suffix, if the same images occur with another suffix: `cat_big.png` and `dog_small.png` are one kind;
2. a prefix with a role, such as `mask_`, if the same images occur with another prefix;
3. the role of their folder, such as `labels`, and sibling folders of one role with the same images;
4. the extension, if the same images occur with another extension;
5. what they contain: folders, prefixes or extensions of photographs, and others of label maps.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_url
from statsvc.common.utf8 import printable
from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.selection import FileGroup
from statsvc_workers.formats import FORMATS, extension, peek
from statsvc_workers.samples.open_sample import exists, open_bytes
from statsvc_workers.samples.roots import OutsideRoots, current_roots, restricted
from statsvc_workers.sources.content import Content, Look, inspect
from statsvc_workers.sources.grouping import pattern_of_group
from statsvc_workers.sources.roles import VERSION, Role, folder_role, role_of, without_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SUFFIX = re.compile(
    r"[_\-.](?:[A-Za-z](?:[A-Za-z0-9]*[A-Za-z])?|t[12]|\d(?:st|nd|rd|th)[A-Za-z]*|\d+_?class(?:es)?"
    r"|(?:gt|manual|mask|label|seg|rater|annotator|expert|observer|reader)\d)$",
    re.IGNORECASE,
)
"""A suffix of the stem, such as `_labelIds`, `_2ndHO` or `_3class`.

A final digit usually means a number, as in `0006R0_f00930`.
"""

PREFIX = re.compile(r"[A-Za-z]+(?=[\W_\d]|$)")
"""A prefix of the stem, such as `mask` in `mask_1` and `mask1`, or the whole stem."""

HEADERS = 5
"""Headers read per group of files in a folder."""

FOLDERS = 200
"""Folders in which headers are read; a dataset with one folder per image has many."""

CONTENTS = 5
"""Files of a kind whose pixels are inspected."""

CONTENT_FOLDERS = 12
"""Folders in which the pixels of files are inspected."""

REQUESTS = 16
"""Concurrent requests for headers from an object store."""

MANY_SUFFIXES = 16
"""More suffixes than this after one stem are names of images, not kinds."""

MANY_NAMES = 8
"""More prefixes or extensions than this are not inspected, because each takes the pixels of a file."""

MINORITY = 0.1
"""A smaller share of images among label maps is a set of bad samples, not a kind."""

UNKNOWN_HEADER = "unreadable"
"""Description of files whose headers cannot be read."""

PHOTOS = {".jpg", ".jpeg"}
"""Extensions of images that never contain labels, and are reported as skipped."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of file.

    image   whether its files are images (photographs, scans), which are never counted
    photo   whether its pixels show that
    binary  whether the inspected files have no values but 0, 1 and 255, at most two in a file
    """

    group: FileGroup
    image: bool = False
    photo: bool = False
    binary: bool = False

    @property
    def pattern(self) -> str:
        """The pattern that matches its files."""
        return self.group.pattern


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    folder: str
    stem: str
    extension: str
    suffix: str

    @property
    def group(self) -> str:
        """The extension in lower case, where .tiff equals .tif."""
        return {".tiff": ".tif"}.get(self.extension.lower(), self.extension.lower())


def candidates(paths: Iterable[str]) -> list[str]:
    """Return the paths with the extension of a label map format."""
    return [path for path in paths if extension(path) in FORMATS]


def kinds(root: str, paths: Sequence[str], counting: Counting | None = None) -> list[FileKind]:
    """Return the kinds of file among `paths` (at least one candidate), largest first.

    counting  the rule and the name of the array by which the files would be counted
    """
    files = [_file(path) for path in paths]
    contents = _Contents(root, counting or Counting())
    groups = [files]
    for split in (_by_suffix, _by_prefix, _by_folder, _by_extension, _by_look, _by_content):
        groups = [part for group in groups for part in split(group, contents)]
    groups.sort(key=lambda group: (-len(group), group[0].path))
    roles = [_name_role(group[0]) for group in groups]
    if len(set(roles)) == 1:
        roles = [None] * len(groups)  # names such as image_001.png distinguish nothing
    return [_kind(group, role, files, contents) for group, role in zip(groups, roles, strict=True)]


def photo_files(paths: Iterable[str]) -> list[FileGroup]:
    """Return the files of lossy formats, which are images, as skipped groups."""
    by_extension: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if extension(path) in PHOTOS:
            by_extension[path[path.rindex(".") :]].append(path)
    return [
        FileGroup(f"*{ending}", len(found), Role.IMAGES.value, "JPEG", printable(min(found)))
        for ending, found in sorted(by_extension.items())
    ]


def _file(path: str) -> _File:
    folder, _, name = path.rpartition("/")
    file_extension = name[len(name) - len(extension(name)) :]
    stem = name[: -len(file_extension)]
    match = SUFFIX.search(stem)
    # If the suffix is the whole stem (`_a.png`), it is the name of the image.
    suffix = match.group() if match and match.start() else ""
    return _File(path, folder, stem, file_extension, suffix)


def _grouped(files: Iterable[_File], key: Callable[[_File], str]) -> dict[str, list[_File]]:
    groups: dict[str, list[_File]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return dict(groups)


def _by_suffix(files: list[_File], contents: _Contents) -> list[list[_File]]:
    suffixes = _parallel((file.stem.removesuffix(file.suffix), file.suffix) for file in files)
    suffixes |= _color_suffixes(files, contents)
    return list(_grouped(files, lambda file: file.suffix if file.suffix in suffixes else "").values())


def _by_prefix(files: list[_File], _contents: _Contents) -> list[list[_File]]:
    """Split files by prefixes that have a role, if the same images occur with another prefix."""
    prefix_of: dict[str, str] = {}
    for file in files:
        match = PREFIX.match(file.stem)
        if match and role_of(match.group()) is not None:
            prefix_of[file.path] = match.group()
    frequency = Counter(prefix_of.values())
    prefix_of = {
        path: prefix for path, prefix in prefix_of.items() if frequency[prefix] >= MINORITY * len(files)
    }
    prefixes = _parallel(
        (f"{file.folder}/{file.stem[len(prefix) :].lstrip('_-. ')}", prefix)
        for file in files
        for prefix in (prefix_of.get(file.path, ""),)
    )
    if not prefixes:
        return [files]
    return list(_grouped(files, lambda file: _if_in(prefix_of.get(file.path, ""), prefixes)).values())


def _if_in(text: str, chosen: set[str]) -> str:
    return text if text in chosen else ""


def _parallel(variants: Iterable[tuple[str, str]]) -> set[str]:
    """Return the variants of pairs that share images: at least half of the images of the smaller group.

    variants  for each file, the name of its image and its variant, such as a suffix, which may be ""
    """
    variants_of: dict[str, set[str]] = defaultdict(set)
    for image, variant in variants:
        variants_of[image].add(variant)
    images: Counter[str] = Counter()
    shared: Counter[tuple[str, str]] = Counter()
    for found in variants_of.values():
        images.update(found)
        if len(found) <= MANY_SUFFIXES:
            shared.update(itertools.combinations(sorted(found), 2))
    parallel = {pair for pair, count in shared.items() if 2 * count >= min(images[pair[0]], images[pair[1]])}
    return {variant for pair in parallel for variant in pair if variant}


def _color_suffixes(files: Sequence[_File], contents: _Contents) -> set[str]:
    """Return the frequent suffixes if some of them belong to color images and others do not."""
    by_suffix = _grouped(files, lambda file: file.suffix)
    frequent = [suffix for suffix, group in by_suffix.items() if len(group) >= max(2, MINORITY * len(files))]
    color = {suffix: contents.are_color(by_suffix[suffix]) for suffix in frequent}
    if len(set(color.values())) < 2:
        return set()
    return {suffix for suffix in frequent if suffix}


def _by_folder(files: list[_File], _contents: _Contents) -> list[list[_File]]:
    """Split files by the role of their folder, and by sibling folders of one role with the same images."""
    folders = _grouped(files, lambda file: file.folder)
    if len(folders) == 1:
        return [files]
    split_by = _parallel_folders(folders)

    def variant(file: _File) -> str:
        role, name = folder_role(file.folder)
        parts = sorted(set(file.folder.split("/")) & split_by)
        return "/".join([role.value if role else "", _if_in(name, split_by), *parts])

    return list(_grouped(files, variant).values())


def _parallel_folders(folders: dict[str, list[_File]]) -> set[str]:
    """Return the names of sibling folders of label maps with the same images: `masks_2class`, `masks_3class`.

    Siblings without a role are sequences or regions, in which pictures are numbered anew.
    """
    siblings: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in folders:
        parts = folder.split("/")
        for k, part in enumerate(parts):
            role = role_of(part)
            if role is not None or VERSION.match(part):
                key = "/".join([*parts[:k], f"*{role.value if role else ''}", *parts[k + 1 :]])
                siblings[key][part] = folder
    parallel: set[str] = set()
    for folder_of in siblings.values():
        for first, second in itertools.combinations(sorted(folder_of)[:MANY_SUFFIXES], 2):
            if not VERSION.match(first) and without_splits(first) == without_splits(second):
                continue
            files = [folders[folder_of[name]] for name in (first, second)]
            stems = [{file.stem for file in group} for group in files]
            # Files may repeat the name of their folder, such as gtFine/x_gtFine_labelIds.png.
            images = [
                {file.stem.replace(name, "") for file in group}
                for name, group in zip((first, second), files, strict=True)
            ]
            if any(2 * len(a & b) >= min(len(a), len(b)) for a, b in (stems, images)):
                parallel |= {first, second}
    return parallel


def _by_extension(files: list[_File], _contents: _Contents) -> list[list[_File]]:
    """Split files by extension if the same images occur with several extensions; otherwise keep one kind."""
    groups = list(_grouped(files, lambda file: file.group).values())
    groups.sort(key=len, reverse=True)
    merged: list[list[_File]] = []
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


def _by_look(files: list[_File], contents: _Contents) -> list[list[_File]]:
    """Split files by extension or prefix into images and label maps: `case1/t1.nii.gz`, `case1/seg.npy`."""
    keys: list[Callable[[_File], str]] = [lambda file: file.group, _prefix]
    for key in keys:
        groups = _grouped(files, key)
        if not 1 < len(groups) <= MANY_NAMES or min(map(len, groups.values())) < 2:
            continue
        images = {name for name, group in groups.items() if contents.are_photos(group, 1)}
        if 0 < len(images) < len(groups):
            return [[file for file in files if (key(file) in images) is image] for image in (True, False)]
    return [files]


def _prefix(file: _File) -> str:
    match = PREFIX.match(file.stem)
    return match.group() if match else ""


def _by_content(files: list[_File], contents: _Contents) -> list[list[_File]]:
    """Split files by folder into images and label maps."""
    folders = _grouped(files, lambda file: file.folder)
    if len(folders) == 1:
        return [files]
    image_folders = {folder for folder in _spread(sorted(folders)) if contents.are_color(folders[folder])}
    if len(image_folders) == len(folders):
        image_folders = set()  # only the pixels show which ones have ids in three equal channels
    gray = [folder for folder in sorted(folders) if folder not in image_folders]
    image_folders |= {
        folder for folder in _spread(gray, CONTENT_FOLDERS) if contents.are_photos(folders[folder], 2)
    }
    inspected = {*_spread(sorted(folders)), *image_folders}
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


def _spread(names: list[str], most: int = FOLDERS) -> list[str]:
    """Return at most `most` of the names, evenly spread."""
    step = max(1, len(names) / most)
    return [names[int(k * step)] for k in range(int(len(names) / step))]


def _kind(
    files: list[_File], name_role: Role | None, everything: list[_File], contents: _Contents
) -> FileKind:
    role = folder_role(files[0].folder)[0] or name_role
    found = contents.of(files)
    looks = Counter(content.look for content in found)
    photo = 2 * looks[Look.PHOTO] > len(found) > 0
    fractions = 2 * looks[Look.FRACTIONS] > len(found) > 0
    image = photo or fractions or role is Role.IMAGES
    if photo and role is None:
        role = Role.IMAGES
    paths = [file.path for file in files]
    pattern = pattern_of_group(paths, [file.path for file in everything], _name_globs(files, everything))
    text = contents.describe(files, found)
    group = FileGroup(pattern, len(files), role.value if role else None, text, printable(min(paths)))
    binary = bool(found) and all(content.look is Look.LABELS and content.is_binary for content in found)
    return FileKind(group, image, photo, binary)


def _name_role(file: _File) -> Role | None:
    """Return the role that the suffix or the prefix of a file name gives it."""
    prefix = PREFIX.match(file.stem)
    return role_of(file.suffix) or (role_of(prefix.group()) if prefix else None)


def _name_globs(files: Sequence[_File], everything: Sequence[_File]) -> list[str]:
    """Return globs of the file names, the simplest first; not every one is right for every group."""
    extensions = sorted({file.extension.removeprefix(".") for file in files})
    ending = "." + (extensions[0] if len(extensions) == 1 else "{" + ",".join(extensions) + "}")
    suffixes = {file.suffix for file in files}
    globs = [f"*{ending}"]
    if len(suffixes) == 1 and (suffix := next(iter(suffixes))):
        globs.insert(0, f"*{suffix}{ending}")
    others = sorted({file.suffix for file in everything} - suffixes - {""})
    if others and len(others) <= MANY_SUFFIXES:
        globs.append("!(" + "|".join(f"*{other}" for other in others) + ")" + ending)
    prefixes = {match.group() for file in files if (match := PREFIX.match(file.stem))}
    if len(prefixes) == 1 and (prefix := next(iter(prefixes))):
        globs.append(f"{prefix}*{ending}")
    other_prefixes = {match.group() for file in everything if (match := PREFIX.match(file.stem))} - prefixes
    known = sorted(prefix for prefix in other_prefixes if role_of(prefix) is not None)
    if known and len(known) <= MANY_SUFFIXES:
        globs.append("!(" + "|".join(f"{prefix}*" for prefix in known) + ")" + ending)
    return globs


class _Contents:
    """The headers and the contents of a few files per folder, each read once."""

    def __init__(self, root: str, counting: Counting) -> None:
        self.root, self.counting = root, counting
        self._roots = current_roots()  # also for the threads below
        self._headers: dict[str, tuple[str, bool] | None] = {}
        self._contents: dict[str, Content | None] = {}

    def are_color(self, files: Sequence[_File]) -> bool:
        """Whether most of the readable headers belong to color images."""
        headers = self._read_some(files)
        return 2 * sum(color for _, color in headers) > len(headers) if headers else False

    def are_photos(self, files: Sequence[_File], most: int) -> bool:
        """Whether most of `most` readable files look like photographs, or contain fractions as scans do."""
        found = self.of(files, most)
        images = sum(content.look in (Look.PHOTO, Look.FRACTIONS) for content in found)
        return 2 * images > len(found) > 0

    def of(self, files: Sequence[_File], most: int = CONTENTS) -> list[Content]:
        """Return the contents of a few files, evenly spread."""
        chosen = _spread(sorted(file.path for file in files), most)
        if is_url(self.root):
            with ThreadPoolExecutor(REQUESTS, "statsvc-peek") as pool:
                found = list(pool.map(self._inspect, chosen))
        else:
            found = [self._inspect(path) for path in chosen]
        return [content for content in found if content is not None]

    def describe(self, files: Sequence[_File], found: Sequence[Content]) -> str:
        """Return the most frequent description of the headers, and the range of the values."""
        common = Counter(text for text, _ in self._read_some(files)).most_common(1)
        text = common[0][0] if common else UNKNOWN_HEADER
        if any(content.look is Look.PHOTO for content in found):
            return f"{text}, varies like a photograph"
        if any(content.look is Look.FRACTIONS for content in found):
            return f"{text}, with fractions"
        labels = [content for content in found if content.look is Look.LABELS and content.values]
        if not labels:
            return text
        most = max(content.values for content in labels)
        lowest = min(content.lowest for content in labels)
        highest = max(content.highest for content in labels)
        return f"{text}, values {lowest} to {highest}, at most {most} different in a file"

    def _inspect(self, path: str) -> Content | None:
        if path not in self._contents:
            counting = self.counting
            colors = counting.palette is not None
            with restricted(self._roots):
                self._contents[path] = inspect(self.root, path, counting.key, colors=colors)
        return self._contents[path]

    def _read_some(self, files: Sequence[_File]) -> list[tuple[str, bool]]:
        by_folder = _grouped(files, lambda file: file.folder)
        chosen: list[_File] = []
        for folder in _spread(sorted(by_folder)):
            chosen += sorted(by_folder[folder], key=lambda file: file.path)[:HEADERS]
        if is_url(self.root):
            with ThreadPoolExecutor(REQUESTS, "statsvc-peek") as pool:
                headers = list(pool.map(self._read, [file.path for file in chosen]))
        else:
            headers = [self._read(file.path) for file in chosen]
        return [header for header in headers if header is not None]

    def _read(self, path: str) -> tuple[str, bool] | None:
        if path not in self._headers:
            header = None
            with restricted(self._roots), suppress(OSError, OutsideRoots):
                # Only regular files: reading a pipe would block.
                if is_url(self.root) or exists(self.root, path):
                    with open_bytes(self.root, path) as file:
                        header = peek(path, file)
            self._headers[path] = None if header is None else (header.text, header.color)
        return self._headers[path]
