"""The headers and the contents of a few files of each folder, each read once."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_url
from statsvc_workers.samples.roots import current_roots, restricted
from statsvc_workers.sources.content import Content, Look, header, inspect, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.sources.file_names import NamedFile

HEADERS = 5
"""Headers read per group of files in a folder."""

FOLDERS = 200
"""Folders in which headers are read; a dataset with one folder per image has many."""

CONTENTS = 5
"""Files of a kind whose pixels are inspected."""

REQUESTS = 16
"""Concurrent requests for headers from an object store."""

UNKNOWN_HEADER = "unreadable"
"""Description of files whose headers cannot be read."""


class Inspection:
    """The headers and the contents of a few files per folder, each read once."""

    def __init__(self, root: str, counting: Counting) -> None:
        self.root, self.counting = root, counting
        self._roots = current_roots()  # also for the threads below
        self._headers: dict[str, tuple[str, bool] | None] = {}
        self._contents: dict[str, Content | None] = {}
        self._samples: dict[str, NDArray[np.int64] | None] = {}

    def sample(self, path: str) -> NDArray[np.int64] | None:
        """Return some ids of a file, as `content.sample`."""
        if path not in self._samples:
            with restricted(self._roots):
                self._samples[path] = sample(self.root, path, self.counting.key)
        return self._samples[path]

    def are_color(self, files: Sequence[NamedFile]) -> bool:
        """Whether most of the readable headers belong to color images."""
        headers = self._read_some(files)
        return 2 * sum(color for _, color in headers) > len(headers) if headers else False

    def are_photos(self, files: Sequence[NamedFile], most: int) -> bool:
        """Whether most of `most` readable files look like photographs, or contain fractions as scans do."""
        found = self.of(files, most)
        images = sum(content.look in (Look.PHOTO, Look.FRACTIONS) for content in found)
        return 2 * images > len(found) > 0

    def are_binary(self, files: Sequence[NamedFile], most: int = CONTENTS) -> bool:
        """Whether the inspected files are binary masks."""
        found = self.of(files, most)
        return bool(found) and all(content.look is Look.LABELS and content.is_binary for content in found)

    def of(self, files: Sequence[NamedFile], most: int = CONTENTS) -> list[Content]:
        """Return the contents of a few files, evenly spread."""
        chosen = spread(sorted(file.path for file in files), most)
        if is_url(self.root):
            with ThreadPoolExecutor(REQUESTS, "statsvc-peek") as pool:
                found = list(pool.map(self._inspect, chosen))
        else:
            found = [self._inspect(path) for path in chosen]
        return [content for content in found if content is not None]

    def describe(self, files: Sequence[NamedFile], found: Sequence[Content]) -> str:
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

    def _read_some(self, files: Sequence[NamedFile]) -> list[tuple[str, bool]]:
        by_folder = grouped(files, lambda file: file.folder)
        chosen: list[NamedFile] = []
        for folder in spread(sorted(by_folder), FOLDERS):
            chosen += sorted(by_folder[folder], key=lambda file: file.path)[:HEADERS]
        if is_url(self.root):
            with ThreadPoolExecutor(REQUESTS, "statsvc-peek") as pool:
                headers = list(pool.map(self._read, [file.path for file in chosen]))
        else:
            headers = [self._read(file.path) for file in chosen]
        return [found for found in headers if found is not None]

    def _read(self, path: str) -> tuple[str, bool] | None:
        if path not in self._headers:
            with restricted(self._roots):
                found = header(self.root, path)
            self._headers[path] = None if found is None else (found.text, found.color)
        return self._headers[path]


def grouped(files: Iterable[NamedFile], key: Callable[[NamedFile], str]) -> dict[str, list[NamedFile]]:
    """Return the files by key."""
    groups: dict[str, list[NamedFile]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return dict(groups)


def spread(items: list[str], most: int) -> list[str]:
    """Return at most `most` of the items, evenly spread."""
    step = max(1, len(items) / most)
    return [items[int(k * step)] for k in range(int(len(items) / step))]
