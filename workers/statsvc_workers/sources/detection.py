"""Which kinds of label map a folder holds, told by names and a few headers.

Many datasets keep several files a picture: `x_color.png`, `x_instanceIds.png` and `x_labelIds.png` side
by side, `images/x.png` beside `labels/x.png`, or `x.npy` beside `x.png`. Counting them together would be
wrong, so each is a kind with a pattern of its own. Names alone say little, so a word at the end of a name
makes a kind only where pictures recur with another word: `cat_big.png` and `dog_small.png` are one kind.
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
from statsvc_workers.samples.open_sample import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TOKEN = re.compile(r"_[A-Za-z](?:[A-Za-z0-9]*[A-Za-z])?$")
"""A word at the end of a stem. One that ends in a digit is a number of something (`0006R0_f00930`)."""

HEADERS = 5
"""Headers read of each group of files in a folder."""

FOLDERS = 200
"""Folders in which headers are read; a dataset with a folder for each picture has many."""

REQUESTS = 16
"""Headers read at a time from an object store."""

MANY = 16
"""More words than this after one stem are names of pictures, not kinds."""

MINORITY = 0.1
"""A smaller share of colour images among label maps is bad samples, not a kind."""

BRACES = 8
"""Most folders that a pattern lists."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of label map: the pattern that matches its files, and what they are, for a person."""

    pattern: str
    text: str


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    folder: str
    stem: str
    extension: str
    token: str

    @property
    def group(self) -> str:
        """The extension in lower case, with .tif and .tiff as one."""
        return {".tiff": ".tif"}.get(self.extension.lower(), self.extension.lower())


def candidates(paths: Iterable[str]) -> list[str]:
    """Return the paths whose extension a reader of label maps has."""
    return [path for path in paths if extension(path) in FORMATS]


def kinds(root: str, paths: Sequence[str]) -> list[FileKind]:
    """Return the kinds of label map among the candidates `paths` (at least one), largest first."""
    files = [_file(path) for path in paths]
    headers = _Headers(root)
    words = _parallel_words(files) | _coloured_words(files, headers)
    by_word = _grouped(files, lambda file: file.token if file.token in words else "")
    found: list[tuple[list[_File], str]] = []
    for word, members in by_word.items():
        others = sorted(words & by_word.keys() - {word, ""}) if not word else []
        for group in _by_extension(members):
            found += _by_colour(group, _name_glob(word, others, group), headers)
    found.sort(key=lambda kind: (-len(kind[0]), kind[1]))
    return [FileKind(pattern, _text(members, headers)) for members, pattern in found]


def _file(path: str) -> _File:
    folder, _, name = path.rpartition("/")
    suffix = name[len(name) - len(extension(name)) :]
    stem = name[: -len(suffix)]
    match = TOKEN.search(stem)
    # A word that is the whole stem (`_a.png`) is the picture's name.
    token = match.group() if match and match.start() else ""
    return _File(path, folder, stem, suffix, token)


def _grouped(files: Iterable[_File], key: Callable[[_File], str]) -> dict[str, list[_File]]:
    groups: dict[str, list[_File]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return dict(groups)


def _parallel_words(files: Sequence[_File]) -> set[str]:
    """Return the words with which the same pictures recur, at least half of the smaller group's."""
    words_of: dict[str, set[str]] = defaultdict(set)
    for file in files:
        words_of[file.stem.removesuffix(file.token)].add(file.token)
    pictures: Counter[str] = Counter()
    shared: Counter[tuple[str, str]] = Counter()
    for words in words_of.values():
        pictures.update(words)
        if len(words) <= MANY:
            shared.update(itertools.combinations(sorted(words), 2))
    parallel = {
        pair for pair, count in shared.items() if 2 * count >= min(pictures[pair[0]], pictures[pair[1]])
    }
    return {word for pair in parallel for word in pair if word}


def _coloured_words(files: Sequence[_File], headers: _Headers) -> set[str]:
    """Return the frequent words whose files are colour where the others' are not, or the reverse."""
    by_word = _grouped(files, lambda file: file.token)
    frequent = [word for word, own in by_word.items() if len(own) >= max(2, MINORITY * len(files))]
    colour = {word: headers.are_colour(by_word[word]) for word in frequent}
    if len(set(colour.values())) < 2:
        return set()
    return {word for word in frequent if word}


def _by_extension(files: Sequence[_File]) -> list[list[_File]]:
    """Split files by extension where the same pictures recur with another; else leave them as one kind."""
    groups = list(_grouped(files, lambda file: file.group).values())
    groups.sort(key=len, reverse=True)
    merged: list[list[_File]] = []
    for group in groups:
        stems = {file.stem for file in group}
        home = None
        for kind in merged:
            common = stems & {file.stem for file in kind}
            if 2 * len(common) < min(len(stems), len(kind)):
                home = kind
                break
        if home is None:
            merged.append(group)
        else:
            home += group
    return merged


def _by_colour(files: list[_File], name: str, headers: _Headers) -> list[tuple[list[_File], str]]:
    """Split files by folder into images and label maps; return each part with its pattern."""
    whole = [(files, name)]
    folders = _grouped(files, lambda file: file.folder)
    if len(folders) == 1:
        return whole
    is_colour = {folder: headers.are_colour(folders[folder]) for folder in _spread(sorted(folders))}
    colour = sorted(folder for folder, yes in is_colour.items() if yes)
    index = sorted(folder for folder, yes in is_colour.items() if not yes)
    if not colour or not index:
        return whole
    images, labels = _folder_glob(colour, index), _folder_glob(index, colour)
    if images is None or labels is None:
        return whole
    parts = [
        [file for file in files if images[0](file.folder)],
        [file for file in files if labels[0](file.folder)],
    ]
    if len(parts[0]) < MINORITY * len(files):
        return whole
    return [(parts[0], _join(images[1], name)), (parts[1], _join(labels[1], name))]


def _spread(folders: list[str]) -> list[str]:
    """Return at most `FOLDERS` of them, evenly spread."""
    step = max(1, len(folders) / FOLDERS)
    return [folders[int(place * step)] for place in range(int(len(folders) / step))]


def _folder_glob(inside: list[str], outside: list[str]) -> tuple[Callable[[str], bool], list[str]] | None:
    """Return a test for folders, and globs of folders, that take all of `inside` and none of `outside`."""
    common = set.intersection(*(set(folder.split("/")) for folder in inside))
    elsewhere = {part for folder in outside for part in folder.split("/")}
    distinct = common - elsewhere - {""}
    if distinct:
        # The uppermost: images/…, or train/images/… and val/images/….
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
        return f"{folders[0]}/{name}"  # a leading "/" for the root itself
    return "{" + ",".join(f"{folder}/{name}" if folder else name for folder in folders) + "}"


def _name_glob(word: str, others: list[str], files: Sequence[_File]) -> str:
    """Return the glob for names that end in `word`, or in none of `others`, with the files' extensions."""
    extensions = sorted({file.extension.removeprefix(".") for file in files})
    suffix = "." + (extensions[0] if len(extensions) == 1 else "{" + ",".join(extensions) + "}")
    if others:
        return "!(" + "|".join(f"*{other}" for other in others) + ")" + suffix
    return f"*{word}{suffix}"


def _text(files: Sequence[_File], headers: _Headers) -> str:
    what = headers.describe(files)
    return f"{len(files)} {'file' if len(files) == 1 else 'files'}, {what}"


class _Headers:
    """The headers of a few files of each folder, read once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._seen: dict[str, tuple[str, bool] | None] = {}

    def are_colour(self, files: Sequence[_File]) -> bool:
        """Whether most of the headers read are of colour images; unreadable ones count as neither."""
        found = self._sample(files)
        return 2 * sum(colour for _, colour in found) > len(found) if found else False

    def describe(self, files: Sequence[_File]) -> str:
        """Return what most of the headers say."""
        common = Counter(text for text, _ in self._sample(files)).most_common(1)
        return common[0][0] if common else "unreadable"

    def _sample(self, files: Sequence[_File]) -> list[tuple[str, bool]]:
        by_folder = _grouped(files, lambda file: file.folder)
        chosen: list[_File] = []
        for folder in _spread(sorted(by_folder)):
            chosen += sorted(by_folder[folder], key=lambda file: file.path)[:HEADERS]
        if is_url(self.root):
            with ThreadPoolExecutor(REQUESTS, "statsvc-peek") as pool:
                found = list(pool.map(self._read, [file.path for file in chosen]))
        else:
            found = [self._read(file.path) for file in chosen]
        return [header for header in found if header is not None]

    def _read(self, path: str) -> tuple[str, bool] | None:
        if path not in self._seen:
            found = None
            # A pipe would be waited for.
            if is_url(self.root) or Path(self.root, path).is_file():
                with suppress(OSError), reading(self.root, path) as file:
                    found = peek(path, file)
            self._seen[path] = None if found is None else (found.text, found.colour)
        return self._seen[path]
