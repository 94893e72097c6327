"""Detect the kinds of label map in a folder from file names and a few headers.

Many datasets store several files per image: `x_color.png`, `x_instanceIds.png` and `x_labelIds.png` in one
folder, `images/x.png` and `labels/x.png`, or `x.npy` and `x.png`. Counting them together would be wrong, so
each is a separate kind with its own pattern. A suffix of the file name distinguishes kinds only if the same
images occur with another suffix: `cat_big.png` and `dog_small.png` are one kind.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wcmatch import glob

from statsvc.common.object_urls import is_url
from statsvc_workers.formats import FORMATS, extension, peek
from statsvc_workers.samples.open_sample import open_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SUFFIX = re.compile(r"_[A-Za-z](?:[A-Za-z0-9]*[A-Za-z])?$")
"""A suffix of the stem, such as `_labelIds`. A final digit means a number, as in `0006R0_f00930`."""

HEADERS = 5
"""Headers read per group of files in a folder."""

FOLDERS = 200
"""Folders in which headers are read; a dataset with one folder per image has many."""

REQUESTS = 16
"""Concurrent requests for headers from an object store."""

MANY_SUFFIXES = 16
"""More suffixes than this after one stem are names of images, not kinds."""

MINORITY = 0.1
"""A smaller share of color images among label maps is a set of bad samples, not a kind."""

BRACES = 8
"""Most folders that a pattern lists."""

UNKNOWN_HEADER = "unreadable"
"""Description of files whose headers cannot be read."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of label map: the pattern that matches its files, and a description for a person."""

    pattern: str
    text: str


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


def kinds(root: str, paths: Sequence[str]) -> list[FileKind]:
    """Return the kinds of label map among `paths` (at least one candidate), largest first."""
    files = [_file(path) for path in paths]
    headers = _Headers(root)
    suffixes = _parallel_suffixes(files) | _color_suffixes(files, headers)
    by_suffix = _grouped(files, lambda file: file.suffix if file.suffix in suffixes else "")
    groups: list[tuple[list[_File], str]] = []
    for suffix, files_with_suffix in by_suffix.items():
        others = sorted(suffixes & by_suffix.keys() - {suffix, ""}) if not suffix else []
        for group in _by_extension(files_with_suffix):
            groups += _by_color(group, _name_glob(suffix, others, group), headers)
    groups.sort(key=lambda group: (-len(group[0]), group[1]))
    return [FileKind(pattern, _description(members, headers)) for members, pattern in groups]


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


def _parallel_suffixes(files: Sequence[_File]) -> set[str]:
    """Return the suffixes of pairs that share images: at least half of the images of the smaller group."""
    suffixes_of: dict[str, set[str]] = defaultdict(set)
    for file in files:
        suffixes_of[file.stem.removesuffix(file.suffix)].add(file.suffix)
    images: Counter[str] = Counter()
    shared: Counter[tuple[str, str]] = Counter()
    for suffixes in suffixes_of.values():
        images.update(suffixes)
        if len(suffixes) <= MANY_SUFFIXES:
            shared.update(itertools.combinations(sorted(suffixes), 2))
    parallel = {pair for pair, count in shared.items() if 2 * count >= min(images[pair[0]], images[pair[1]])}
    return {suffix for pair in parallel for suffix in pair if suffix}


def _color_suffixes(files: Sequence[_File], headers: _Headers) -> set[str]:
    """Return the frequent suffixes if some of them belong to color images and others do not."""
    by_suffix = _grouped(files, lambda file: file.suffix)
    frequent = [suffix for suffix, group in by_suffix.items() if len(group) >= max(2, MINORITY * len(files))]
    color = {suffix: headers.are_color(by_suffix[suffix]) for suffix in frequent}
    if len(set(color.values())) < 2:
        return set()
    return {suffix for suffix in frequent if suffix}


def _by_extension(files: Sequence[_File]) -> list[list[_File]]:
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


def _by_color(files: list[_File], name: str, headers: _Headers) -> list[tuple[list[_File], str]]:
    """Split files by folder into color images and label maps; return each group with its pattern."""
    unsplit = [(files, name)]
    folders = _grouped(files, lambda file: file.folder)
    if len(folders) == 1:
        return unsplit
    is_color = {folder: headers.are_color(folders[folder]) for folder in _spread(sorted(folders))}
    color_folders = sorted(folder for folder, color in is_color.items() if color)
    label_folders = sorted(folder for folder, color in is_color.items() if not color)
    if not color_folders or not label_folders:
        return unsplit
    image_glob = _folder_glob(color_folders, label_folders)
    label_glob = _folder_glob(label_folders, color_folders)
    if image_glob is None or label_glob is None:
        return unsplit
    images = [file for file in files if image_glob[0](file.folder)]
    label_maps = [file for file in files if label_glob[0](file.folder)]
    if len(images) < MINORITY * len(files):
        return unsplit
    return [(images, _join(image_glob[1], name)), (label_maps, _join(label_glob[1], name))]


def _spread(folders: list[str]) -> list[str]:
    """Return at most `FOLDERS` of the folders, evenly spread."""
    step = max(1, len(folders) / FOLDERS)
    return [folders[int(k * step)] for k in range(int(len(folders) / step))]


def _folder_glob(inside: list[str], outside: list[str]) -> tuple[Callable[[str], bool], list[str]] | None:
    """Return a test for folders, and globs, that match all of `inside` and none of `outside`; or None."""
    common = set.intersection(*(set(folder.split("/")) for folder in inside))
    outside_parts = {part for folder in outside for part in folder.split("/")}
    distinct = common - outside_parts - {""}
    if distinct:
        # The outermost folder name: images/…, or train/images/… and val/images/….
        part = min(distinct, key=lambda part: (inside[0].split("/").index(part), part))
        at_top = all(folder.split("/")[0] == part for folder in inside)
        escaped = glob.escape(part, unix=True)
        return (lambda folder: part in folder.split("/")), [f"{escaped}/**" if at_top else f"**/{escaped}/**"]
    if len(inside) <= BRACES:
        chosen = frozenset(inside)
        return (lambda folder: folder in chosen), [glob.escape(folder, unix=True) for folder in inside]
    return None


def _join(folders: list[str], name: str) -> str:
    if len(folders) == 1:
        return f"{folders[0]}/{name}"  # for the root itself, a pattern with a leading "/"
    return "{" + ",".join(f"{folder}/{name}" if folder else name for folder in folders) + "}"


def _name_glob(suffix: str, others: list[str], files: Sequence[_File]) -> str:
    """Return the glob for stems that end in `suffix` but in none of `others`, with the files' extensions."""
    extensions = sorted({file.extension.removeprefix(".") for file in files})
    ending = "." + (extensions[0] if len(extensions) == 1 else "{" + ",".join(extensions) + "}")
    if others:
        return "!(" + "|".join(f"*{other}" for other in others) + ")" + ending
    return f"*{suffix}{ending}"


def _description(files: Sequence[_File], headers: _Headers) -> str:
    return f"{len(files)} {'file' if len(files) == 1 else 'files'}, {headers.describe(files)}"


class _Headers:
    """The headers of a few files per folder, each read once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._cache: dict[str, tuple[str, bool] | None] = {}

    def are_color(self, files: Sequence[_File]) -> bool:
        """Whether most of the readable headers belong to color images."""
        headers = self._read_some(files)
        return 2 * sum(color for _, color in headers) > len(headers) if headers else False

    def describe(self, files: Sequence[_File]) -> str:
        """Return the most frequent description of the headers."""
        common = Counter(text for text, _ in self._read_some(files)).most_common(1)
        return common[0][0] if common else UNKNOWN_HEADER

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
        if path not in self._cache:
            header = None
            # Only regular files: reading a pipe would block.
            if is_url(self.root) or Path(self.root, path).is_file():
                with suppress(OSError), open_bytes(self.root, path) as file:
                    header = peek(path, file)
            self._cache[path] = None if header is None else (header.text, header.color)
        return self._cache[path]
